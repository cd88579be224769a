/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every struct and enum that user space and the programs share, and nothing else.
 *
 * User space reads these layouts from the BTF of the compiled object (netaccel/datapath/abi.py); the
 * records of netaccel/records.py carry the same names. Rules: no bitfields, no unions, no nested
 * structs, padding named and zeroed. Addresses are 16 bytes, IPv4 mapped (::ffff:a.b.c.d), in network
 * byte order, except in the keys of the two IPv4 tables that are read for every packet.
 * Fields of type __be16 and __be32 are in network byte order, everything else in the host's.
 */
#ifndef NETACCEL_ABI_H
#define NETACCEL_ABI_H

#include <linux/types.h>

#define ADDR_LEN 16
#define NAME_LEN 64         /* a DNS label of 63 octets and its NUL */
#define POLICY_NAME_LEN 256 /* a DNS subdomain of 253 octets and its NUL */

/* ------------------------------------------------------------------ enums */

/* Why a packet or a call was not carried. Its name, lower case and without the prefix, is the label
 * of the metric; a new reason needs no change outside the programs. */
enum drop_reason {
	DROP_NONE = 0,
	DROP_NO_BACKEND,       /* the Service has no usable endpoint anywhere: refused */
	DROP_NO_LOCAL_BACKEND, /* a Local traffic policy and no endpoint on this node: silent */
	DROP_NO_SUCH_PORT,     /* a Service's address, a port it doesn't have: refused */
	DROP_SOURCE_RANGE,     /* the client is outside loadBalancerSourceRanges */
	DROP_BACKEND_GONE,     /* an established TCP flow to a removed backend: reset */
	DROP_SNAT_EXHAUSTED,   /* no free source port towards that backend: refused */
	DROP_FLOW_LIMIT,       /* more new flows a second than the limiter admits */
	DROP_FLOW_TABLE,       /* the flow could not be stored */
	DROP_FLOW_CLASH,       /* another flow owns the reply tuple */
	DROP_FRAGMENT,         /* a fragment whose first fragment was not seen */
	DROP_TOO_BIG,          /* larger than the next hop's MTU: ICMP sent where the packet allows it */
	DROP_HOP_LIMIT,        /* hop limit exhausted: ICMP time exceeded */
	DROP_MALFORMED,        /* a rewrite found less packet than its headers promise */
	DROP_NO_ROUTE,         /* no route or neighbour towards the backend or the client */
	DROP_PORT_RESERVED,    /* bind() to a frontend's node port */
	DROP_REWRITE,          /* a helper refused a rewrite */
	DROP_POLICY_DENIED,    /* a policy's rule drops it: silent */
	DROP_POLICY_REJECTED,  /* a policy's rule rejects it: answered */
	DROP_POLICY_ISOLATED,  /* its pod is isolated in this direction and no rule allows it: silent */
	DROP_POLICY_UNREADY,   /* a pod whose policy is not compiled yet, in strict mode */
	DROP_POLICY_SPOOFED,   /* from a pod's device, with an address that is not the pod's */
	DROP_POLICY_UNKNOWN,   /* a policy is in force and the packet can't be read far enough to be judged */
	DROP_POLICY_INCOMPLETE, /* a table that a decision needs has no entry: never, or it is a defect */
	DROP_REASONS,           /* count of the above, keep last */
};

/* How a connection travels (design: path). */
enum flow_path {
	PATH_SOCKET = 0,
	PATH_XDP,
	PATH_TC,
	PATH_PEER,
	PATH_STACK,
	PATHS, /* count, keep last */
};

enum frontend_kind {
	FRONTEND_CLUSTER_IP = 1,
	FRONTEND_NODE_PORT,
	FRONTEND_LOAD_BALANCER,
	FRONTEND_EXTERNAL_IP,
	FRONTEND_HOST_PORT,
	FRONTEND_WILDCARD,      /* port 0, protocol 0: a Service's address; other ports are refused */
	FRONTEND_RESERVED_PORT, /* address ::, a node port: bind() to the unspecified address is refused */
};

enum frontend_flag {
	FRONTEND_WIRE_LOCAL = 1,     /* the wire table holds backends of this node only; no SNAT */
	FRONTEND_WIRE_DROP = 2,      /* an empty wire table drops silently; else it refuses */
	FRONTEND_POD_LOCAL = 4,      /* the pod table holds backends of this node only */
	FRONTEND_POD_DROP = 8,       /* an empty pod table drops silently; else it refuses */
	FRONTEND_AFFINITY = 16,      /* sessionAffinity: ClientIP */
	FRONTEND_SOURCE_RANGES = 32, /* clients must match source_ranges */
	FRONTEND_NODE_ALLOWED = 64,  /* the node itself is inside the source ranges */
	FRONTEND_DSR = 128,          /* room: direct server return */
	FRONTEND_DRAIN = 256,        /* flows that are open are served; all else is left to the stack */
	FRONTEND_TAKEOVER = 512,     /* the stack may have flows that we don't know of yet */
};

enum backend_state {
	BACKEND_FREE = 0, /* the slot is unused, or its backend was removed */
	BACKEND_ACTIVE,
	BACKEND_TERMINATING, /* serving established flows; new ones only where nothing is active */
	BACKEND_NOT_READY,
};

enum backend_flag {
	BACKEND_LOCAL = 1, /* on this node: never SNATed, goes up the stack */
};

enum flow_direction {
	FLOW_FORWARD = 0, /* key: client to frontend */
	FLOW_REVERSE,     /* key: backend to the (possibly translated) client */
};

enum flow_state {
	FLOW_UNREPLIED = 0, /* UDP, first packets; replies not yet seen */
	FLOW_SYN,           /* TCP, SYN seen */
	FLOW_ESTABLISHED,   /* TCP with an ACK from the client; UDP with a reply */
	FLOW_FIN_FORWARD,   /* the client's FIN: the backend may go on sending */
	FLOW_FIN_REVERSE,   /* the backend's FIN */
	FLOW_CLOSED,        /* both; from here on its SNAT port may be given away where all are in use */
	FLOW_RESET,         /* an RST */
	FLOW_STATES,        /* count, keep last */
};

enum flow_flag {
	FLOW_SNAT = 1,     /* the client's address or port is translated too */
	FLOW_LOCAL = 2,    /* the backend is on this node: up the stack after rewriting */
	FLOW_FROM_POD = 4, /* opened through a pod device; the reply is translated there */
	FLOW_HAIRPIN = 8,  /* client and backend are one pod */
	FLOW_STACK = 16,   /* not ours: its packets pass untouched, the kernel's conntrack translates them */
};

/* Index into the map `counters`: what is counted per node and not per Service. */
enum counter {
	COUNTER_FLOW4_INSERT = 0,
	COUNTER_FLOW4_DELETE,
	COUNTER_FLOW6_INSERT,
	COUNTER_FLOW6_DELETE,
	COUNTER_SOCK_PEER_INSERT,
	COUNTER_SOCK_PEER_DELETE,
	COUNTER_SOCK_NAT_INSERT,
	COUNTER_SOCK_NAT_DELETE,
	COUNTER_SOCK_UDP_INSERT,
	COUNTER_SOCK_UDP_DELETE,
	COUNTER_AFFINITY_INSERT,
	COUNTER_AFFINITY_DELETE,
	COUNTER_FRAGMENT_INSERT,
	COUNTER_XDP_TO_TC,     /* XDP could not finish and passed the packet untouched */
	COUNTER_SNAT_RETRY,    /* a source port was taken; another is tried */
	COUNTER_FLOW_REPAIRED, /* one half of a flow was lost and put back */
	COUNTER_ICMP_TRANSLATED,
	COUNTER_SOCK_DESTROYED,
	COUNTER_FLOW4_SWEPT, /* expired entries deleted; only the agent writes these two */
	COUNTER_FLOW6_SWEPT,
	COUNTER_FLOW4_IMPORTED, /* taken from the kernel's conntrack; only the agent writes these two */
	COUNTER_FLOW6_IMPORTED,
	COUNTER_TO_STACK,         /* packets to a frontend that were left to the node's stack */
	COUNTER_EVENT_SEEN,       /* verdicts and drops that make an event; = exported + aggregated + lost */
	COUNTER_EVENT_EXPORTED,   /* ... written to flow_events */
	COUNTER_EVENT_AGGREGATED, /* ... counted in drop_pairs, since their pair had its event this second */
	COUNTER_EVENT_LOST,       /* ... flow_events was full */
	COUNTER_POLICY4_INSERT,   /* entries of policy_flows4, 6 */
	COUNTER_POLICY4_DELETE,
	COUNTER_POLICY6_INSERT,
	COUNTER_POLICY6_DELETE,
	COUNTER_POLICY4_SWEPT, /* expired entries deleted; only the agent writes these two */
	COUNTER_POLICY6_SWEPT,
	COUNTER_POLICY_AGAIN, /* established flows that were judged again after a change of policy */
	COUNTER_PEER_PACKETS, /* given to another pod of this node past the node's stack; of segments each */
	COUNTER_PEER_BYTES,
	COUNTERS, /* count, keep last */
};

/* --------------------------------------------------------------- policy */

/* Of traffic as the pod sees it. */
enum policy_direction {
	POLICY_INGRESS = 0, /* to the pod */
	POLICY_EGRESS,      /* from the pod */
};

enum policy_action {
	POLICY_ALLOW = 0,
	POLICY_DROP,   /* silently */
	POLICY_REJECT, /* answered: reset, or ICMP administratively prohibited */
};

/* What became of a packet or flow. */
enum verdict {
	VERDICT_FORWARDED = 0,
	VERDICT_DROPPED,
	VERDICT_AUDITED, /* forwarded; policy in monitor mode would have dropped it */
	VERDICT_REDIRECTED,
	VERDICT_TRANSLATED,
	VERDICTS, /* count, keep last */
};

enum identity_flag {
	IDENTITY_HOST = 1, /* an address of this node: it always reaches its pods */
	IDENTITY_NODE = 2, /* an address of any node */
	IDENTITY_POD = 4,
};

enum policy_kind {
	KIND_NETWORK_POLICY = 1,
	KIND_CLUSTER_NETWORK_POLICY,
	KIND_TRAFFIC_POLICY,
	KIND_CLUSTER_TRAFFIC_POLICY,
};

enum rule_action { /* as its author wrote it */
	RULE_ALLOW = 0,
	RULE_DROP,
	RULE_REJECT,
	RULE_PASS,
	RULE_MONITOR,
	RULE_ISOLATION, /* none: the policy isolates and no rule allowed */
};

enum endpoint_flag {
	ENDPOINT_INGRESS = 1, /* some policy selects it for ingress: what can't be judged is dropped */
	ENDPOINT_EGRESS = 2,
};

enum policy_flow_state {         /* of one pod's end of a flow; a subset of enum flow_state's sense */
	POLICY_FLOW_NEW = 0,     /* nothing seen from the other side */
	POLICY_FLOW_ESTABLISHED, /* both sides have sent */
	POLICY_FLOW_CLOSING,     /* a FIN of one side */
	POLICY_FLOW_CLOSED,      /* FINs of both, or an RST */
};

enum policy_flow_flag {
	POLICY_FLOW_PLAIN = 1,    /* no program of the pod device translates it: load balancing is skipped */
	POLICY_FLOW_REJECTED = 2, /* not allowed: the entry lets only the answer to the pod or peer pass */
	POLICY_FLOW_FIN_POD = 4,  /* the pod has sent a FIN */
	POLICY_FLOW_FIN_PEER = 8, /* the peer has */
	POLICY_FLOW_EITHER = 16,  /* taken up in its middle: either side may have opened it */
	POLICY_FLOW_DENIED = 32,  /* was allowed, is not any more; who opened it stays known */
};

enum flow_event_type {
	EVENT_VERDICT = 0, /* a new flow's, or an old one's that was judged again and differs */
	EVENT_DROP,        /* a packet that was not carried, policy's or load balancer's */
	EVENT_KERNEL_DROP, /* the kernel's own, by tp_btf kfree_skb */
};

/* ---------------------------------------------------- same-node acceleration */

enum accel_state {      /* of a pair */
	ACCEL_FREE = 0, /* the slot is unused */
	ACCEL_STOPPED,  /* what is sent goes by TCP: before it is live, and while it leaves */
	ACCEL_LIVE,
};

enum accel_bound { /* of what may wait at a receiver beside what TCP holds */
	ACCEL_QUEUE_BYTES = 256 * 1024,
	ACCEL_QUEUE_MESSAGES = 256, /* each costs the kernel some 1 KB, however small it is */
};

enum accel_flag {           /* of a socket, as it is when it is looked at */
	ACCEL_NONBLOCK = 1, /* O_NONBLOCK, so that nobody waits inside a read for TCP alone */
	ACCEL_ULP = 2,      /* kTLS, MPTCP and their like */
	ACCEL_LOWAT = 4,    /* SO_RCVLOWAT above 1 */
	ACCEL_FILTER = 8,   /* a socket filter */
	ACCEL_ZEROCOPY = 16,
	ACCEL_FOREIGN = 32,  /* in a sockmap that is not ours, or another's in some other way */
	ACCEL_ENROLLED = 64, /* in accel_map */
	ACCEL_BUSY = 128,    /* a call that sends or receives is under way */
	ACCEL_UNREAD = 256,  /* redirected bytes wait to be read */
	ACCEL_CLOSING = 512, /* not (or not any more) ESTABLISHED */
};

enum peer_hash { /* of an address's last word w: w * PEER_HASH_FACTOR, modulo 2^32, >> PEER_HASH_SHIFT */
	PEER_HASH_FACTOR = 0x1e3779b1, /* odd, of bits in no order, so that neighbours are spread */
	PEER_HASH_SHIFT = 20,
	PEER_HINTS = 1 << (32 - PEER_HASH_SHIFT),
};

/* ------------------------------------------------------- keys and values */

/* A range of the flat map `maglev` is (offset, length); length 0: no usable backend. */

struct frontend4_key {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct frontend6_key {
	__u8 addr[ADDR_LEN];
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct frontend {
	__u32 service;     /* id of the service port: index of service_counters, key of services */
	__u16 flags;       /* enum frontend_flag */
	__u8 kind;         /* enum frontend_kind */
	__u8 zone;         /* room: topology hints */
	__u32 wire_offset; /* backends for clients from outside this node */
	__u32 wire_length;
	__u32 pod_offset; /* backends for this node's pods and the node itself */
	__u32 pod_length;
	__u32 affinity_timeout; /* seconds */
	__u32 pad;
};

struct service { /* names of a service port, so that the maps alone can be read */
	char namespace[NAME_LEN];
	char name[NAME_LEN];
	char port_name[NAME_LEN]; /* "" where the Service's only port has no name */
	__be16 port;              /* the Service's port */
	__u8 proto;
	__u8 family; /* AF_INET or AF_INET6 */
	__u32 pad;
};

struct backend {
	__u8 addr[ADDR_LEN];
	__be16 port;
	__u8 proto;
	__u8 state;   /* enum backend_state */
	__u8 flags;   /* enum backend_flag */
	__u8 zone;    /* room: topology hints */
	__u16 weight; /* room: 0 means 1 */
	__u32 service;
	__u32 generation; /* of this slot: a flow or socket that holds another one is stale */
};

struct source_range_key { /* longest prefix match; prefix_length counts service's 32 bits too */
	__u32 prefix_length;
	__u32 service;
	__u8 addr[ADDR_LEN];
};

struct source_range {
	__u32 allowed; /* 1 */
};

struct affinity_key {
	__u8 client[ADDR_LEN]; /* an address, or a netns cookie in the first eight bytes */
	__u32 service;
	__u32 from_socket; /* 1: client is a netns cookie */
};

struct affinity {
	__u32 backend;
	__u32 generation;
	__u32 seen; /* jiffies */
	__u32 pad;
};

struct flow4_key {
	__be32 src;
	__be32 dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction; /* enum flow_direction */
	__u16 pad;
};

struct flow6_key {
	__u8 src[ADDR_LEN];
	__u8 dst[ADDR_LEN];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction;
	__u16 pad;
};

/* One half of a translated flow. The new tuple is what the packet leaves with, so either half can be
 * rebuilt from the other. Value of flows6; the programs' view of both families' values. */
struct flow {
	__be16 new_sport;
	__be16 new_dport;
	__u32 service;
	__u32 backend;
	__u32 generation;
	__u32 seen;     /* jiffies of the last packet, low 32 bits */
	__u32 repaired; /* jiffies of the last look at the other half */
	__u8 state;     /* enum flow_state */
	__u8 flags;     /* enum flow_flag */
	__u8 path;      /* enum flow_path that opened it */
	__u8 pad;
	__u8 hop_dst[6]; /* next hop: Ethernet addresses (as they follow each other in a frame), ... */
	__u8 hop_src[6];
	__u32 hop_ifindex; /* ... device (0: not known), ... */
	__u32 hop_seen;    /* ... jiffies of the route look-up, ... */
	__u32 hop_mtu;     /* ... and the MTU it gave */
	__u8 new_src[ADDR_LEN];
	__u8 new_dst[ADDR_LEN];
};

/* Value of flows4: as struct flow up to the addresses. With the key and the kernel's own 48 bytes it fills
 * two cache lines, where the 16-byte form takes three. */
struct flow4 {
	__be16 new_sport;
	__be16 new_dport;
	__u32 service;
	__u32 backend;
	__u32 generation;
	__u32 seen;
	__u32 repaired;
	__u8 state;
	__u8 flags;
	__u8 path;
	__u8 pad;
	__u8 hop_dst[6];
	__u8 hop_src[6];
	__u32 hop_ifindex;
	__u32 hop_seen;
	__u32 hop_mtu;
	__be32 new_src;
	__be32 new_dst;
	__u32 pad2;
};

struct fragment_key {
	__u8 src[ADDR_LEN];
	__u8 dst[ADDR_LEN];
	__u32 id;
	__u8 proto;
	__u8 pad[3];
};

struct fragment {
	__be16 sport;
	__be16 dport;
	__u32 seen; /* jiffies of the first fragment */
};

/* The backend that connect() to a frontend gave a socket; its key is the socket's cookie. */
struct sock_peer {
	__u64 netns;         /* cookie of the socket's network namespace */
	__u8 addr[ADDR_LEN]; /* the frontend that the application named */
	__u8 backend_addr[ADDR_LEN];
	__be16 port;
	__be16 backend_port;
	__u32 service;
	__u32 backend;
	__u32 generation;
};

struct sock_nat_key { /* a peer of an unconnected UDP socket */
	__u64 cookie;
	__u8 backend_addr[ADDR_LEN];
	__be16 backend_port;
	__u8 proto;
	__u8 pad[5];
};

struct sock_nat {
	__u8 addr[ADDR_LEN]; /* the frontend that the application named */
	__be16 port;
	__u16 pad;
	__u32 service;
	__u32 backend;
	__u32 generation;
};

struct sock_udp_key { /* an unconnected UDP socket's choice for one frontend */
	__u64 cookie;
	__u8 addr[ADDR_LEN];
	__be16 port;
	__u8 pad[6];
};

struct sock_udp {
	__u32 backend;
	__u32 generation;
};

/* ---- policy. A decision: policy_endpoints (by device) → identities (the peer's address) → policy_peers
 * → policy_rows. What identities lacks is IDENTITY 0: the world, in no CIDR that a policy names. */

struct identity_key { /* longest prefix match; IPv4 mapped, so that IPv4 /n is 96 + n */
	__u32 prefix_length;
	__u8 addr[ADDR_LEN];
};

struct identity {
	__u32 identity; /* not 0 */
	__u32 flags;    /* enum identity_flag */
};

struct policy_endpoint {   /* key: ifindex of the pod's device on the node */
	__u32 subject;     /* which rules: key of policy_peers; pods with the same rules share one */
	__u32 identity;    /* the pod's own */
	__u32 ingress_row; /* for peers that policy_peers does not name */
	__u32 egress_row;
	__u32 flags; /* enum endpoint_flag */
	__u32 pad;
	__u8 addr4[ADDR_LEN]; /* the pod's addresses, zero where it has none of that family */
	__u8 addr6[ADDR_LEN];
};

struct policy_peer_key {
	__u32 subject;
	__u32 identity;  /* the peer's */
	__u32 direction; /* enum policy_direction */
};

struct policy_row_key { /* longest prefix match: 32 (the whole row), 48 (a protocol), 48 + n (ports) */
	__u32 prefix_length;
	__u32 row;
	__u8 proto;
	__u8 pad;    /* zero, part of the prefix */
	__be16 port; /* the destination's; of ICMP 256 × type + code */
};

struct policy_verdict {
	__u32 rule; /* that gave the enforced action: key of policy_rules; 0: none, allowed by default */
	__u32 shadow_rule; /* that gave the shadow action */
	__u8 action;       /* enum policy_action, of policies in force */
	__u8 shadow;       /* enum policy_action, with policies in monitor mode as if they were in force */
	__u8 isolated;     /* 1: action is what isolation says, no rule matched */
	__u8 shadow_isolated;
};

struct policy_rule { /* names of a rule, so that the maps alone can be read */
	char namespace[NAME_LEN];
	char name[POLICY_NAME_LEN];
	__u8 kind;      /* enum policy_kind */
	__u8 direction; /* enum policy_direction */
	__u8 action;    /* enum rule_action */
	__u8 monitor;   /* 1: the policy is in monitor mode */
	__u16 number;   /* of the rule in its direction; 0xffff with RULE_ISOLATION */
	__u16 pad;
};

struct policy_revision { /* key 0: what was judged under another revision is judged again */
	__u32 revision;
	__u32 strict; /* 1: devices of pods that policy_endpoints lacks carry nothing */
};

struct policy_flow4_key { /* one end of a flow; both ways have the same key */
	__be32 pod;
	__be32 peer;
	__be16 pod_port; /* of ICMP the identifier, and 0 */
	__be16 peer_port;
	__u8 proto;
	__u8 pad[3];
	__u32 ifindex;
};

struct policy_flow6_key {
	__u8 pod[ADDR_LEN];
	__u8 peer[ADDR_LEN];
	__be16 pod_port;
	__be16 peer_port;
	__u8 proto;
	__u8 pad[3];
	__u32 ifindex;
};

struct policy_flow {
	__u32 revision;
	__u32 identity; /* the peer's */
	__u32 rule;
	__u32 shadow_rule;
	__u32 seen; /* jiffies, low 32 bits */
	__u32 opened;
	__u8 state;         /* enum policy_flow_state */
	__u8 direction;     /* enum policy_direction: INGRESS, the peer opened it */
	__u8 verdict;       /* enum verdict */
	__u8 flags;         /* enum policy_flow_flag */
	__u32 service;      /* of the frontend that the pod named, where a pod device translated; else 0 */
	__u64 sent_packets; /* by the pod */
	__u64 sent_bytes;
	__u64 received_packets;
	__u64 received_bytes;
};

struct gate_key {
	__u8 addr[ADDR_LEN]; /* a pod's */
};

struct pod_peer_key {
	__u8 addr[ADDR_LEN]; /* a pod's */
};

/* How packets get to a pod of this node, and from it. */
struct pod_peer {
	__u32 ifindex;   /* of its device on the node */
	__u32 bridge;    /* ifindex of the bridge that this is a port of; 0: none, the node routes */
	__u8 mac[6];     /* of the pod's own end, ... */
	__u8 gateway[6]; /* ... and by which the pod reaches the node, as they follow each other in a frame */
};

struct peer_hints { /* key 0: 1 where the address of some pod of pod_peers has this hash */
	__u8 likely[PEER_HINTS];
};

/* A sample of the ring buffer flow_events. */
struct flow_event {
	__u64 time; /* bpf_ktime_get_ns() */
	__u8 src[ADDR_LEN];
	__u8 dst[ADDR_LEN];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction; /* enum policy_direction, of the pod whose device it is */
	__u8 verdict;   /* enum verdict */
	__u8 type;      /* enum flow_event_type */
	__u32 ifindex;
	__u32 reason;   /* enum drop_reason; of EVENT_KERNEL_DROP the kernel's enum skb_drop_reason */
	__u32 identity; /* the peer's; 0 world or unknown */
	__u32 rule;
	__u32 shadow_rule;
	__u32 service;
	__u32 length; /* of the packet, bytes */
	__u8 path;    /* enum flow_path */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u64 location; /* EVENT_KERNEL_DROP: address in the kernel */
};

struct drop_pair_key { /* what a limited drop event is known by */
	__u8 src[ADDR_LEN];
	__u8 dst[ADDR_LEN];
	__be16 dport;
	__u8 proto;
	__u8 type; /* enum flow_event_type */
	__u32 reason;
	__u32 ifindex;
	__u32 rule;
};

struct drop_pair {
	__u64 packets; /* all, those with an event too */
	__u64 bytes;
	__u32 window; /* jiffies of the last event */
	__u32 pad;
};

/* Key 0 of `dry_run`, private to an instance of tc_pod that is loaded with settings.dry_run: what would
 * become of the packet as the first of its flow. User space writes ifindex and zeroes before each run. */
struct dry_run {
	__u32 ifindex;  /* asked: the pod's device */
	__u32 judged;   /* answered: 1 where a decision was made; all else is zero where not */
	__u32 reason;   /* enum drop_reason; 0: carried */
	__u32 identity; /* the peer's */
	__u32 subject;
	__u32 row;
	__u32 rule;
	__u32 shadow_rule;
	__u32 service; /* of the frontend that was named, and the backend that the packet goes to; 0: none */
	__u32 backend;
	__u8 src[ADDR_LEN]; /* as judged: after translation */
	__u8 dst[ADDR_LEN];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction; /* enum policy_direction */
	__u8 verdict;   /* enum verdict */
	__u8 action;    /* enum policy_action */
	__u8 shadow;    /* enum policy_action */
	__u8 pad[3];
};

/* ---- same-node acceleration (docs/acceleration.md). A pair of sockets has a slot: index of accel_pairs; its
 * ends are 2 × slot and 2 × slot + 1 of accel_ends. */

struct accel_socket { /* of an enrolled socket */
	__u32 end;
	__u32 generation; /* of the slot; another one: the socket left, and the slot is somebody else's */
};

struct accel_pair {
	__u32 generation; /* first of all, with state, in every version: an old layout can be stopped */
	__u32 state;      /* enum accel_state */
	__u32 revision;   /* of policy, under which both ends were let through */
	__u32 pad;
};

struct accel_end {
	__u64 cookie;
	__u64 sock; /* address of its struct sock */
	__u8 src[ADDR_LEN];
	__u8 dst[ADDR_LEN];
	__be16 sport;
	__be16 dport;
	__u32 ifindex;       /* of its pod's device, for policy_flows; 0: both ends are in one pod */
	__u32 queued;        /* messages put into the other end's queue since that was empty, ... */
	__u32 least;         /* ... the smallest of them, bytes */
	__u64 sent_messages; /* that went to the other end's socket, and their bytes */
	__u64 sent_bytes;
	__u64 passed_bytes; /* by TCP, of messages counted below by their reason */
	__u64 pass_stopped; /* the pair is not live */
	__u64 pass_policy;  /* policy changed since the pair was let through */
	__u64 pass_call;    /* urgent data, or a call that can't be seen (io_uring) */
	__u64 pass_reader;  /* the receiver blocks, or waits for more than a byte */
	__u64 pass_peer;    /* the receiver is closed or not enrolled */
	__u64 pass_unread;  /* earlier bytes went by TCP and are not read yet */
	__u64 pass_full;    /* enough waits at the receiver */
	__u32 refreshed;    /* jiffies: policy_flows was told that the flow lives */
	__u32 pad;
};

struct accel_wanted { /* a socket to enrol */
	__u32 end;
	__u32 generation;
	__u32 ifindex;
	__u32 pad;
};

struct accel_seen { /* what a look at a socket wrote */
	__u64 cookie;
	__u64 netns;      /* cookie of its namespace */
	__u64 sent_bytes; /* by TCP */
	__u64 received_bytes;
	__u8 src[ADDR_LEN];
	__u8 dst[ADDR_LEN];
	__be16 sport;
	__be16 dport;
	__u32 flags;         /* enum accel_flag */
	__u32 sent_segments; /* with data */
	__u32 received_segments;
	__u32 queued; /* bytes that wait to be read, as the kernel accounts for them */
	__u32 unsent; /* bytes written and not acknowledged */
	__u32 end;    /* of accel_ends, where enrolled */
	__u32 generation;
};

struct accel_result { /* what an attempt to enrol wrote */
	__u64 cookie;
	__s32 error; /* 0 or a negative errno */
	__u32 flags; /* enum accel_flag: why not */
};

struct node { /* this node's addresses: the source of SNAT; zero where it has none */
	__u8 addr4[ADDR_LEN];
	__u8 addr6[ADDR_LEN];
};

struct traffic { /* per CPU */
	__u64 packets;
	__u64 bytes;
};

struct service_counters { /* per CPU */
	__u64 xdp_request_packets;
	__u64 xdp_request_bytes;
	__u64 xdp_reply_packets;
	__u64 xdp_reply_bytes;
	__u64 tc_request_packets;
	__u64 tc_request_bytes;
	__u64 tc_reply_packets;
	__u64 tc_reply_bytes;
	__u64 connects; /* connect() and first sendmsg() translated at the socket */
	__u64 refused;
};

struct limiter {    /* per CPU: what was admitted in this tick */
	__u32 tick; /* new flows: jiffies; replies: seconds */
	__u32 admitted;
};

/* ------------------------------------------------ constants set before load */

struct settings {
	__u64 node_cookie; /* SO_NETNS_COOKIE of the node's namespace; 0: unknown */
	__u32 hz;          /* jiffies a second */
	__u32 syn_timeout; /* seconds, all timeouts */
	__u32 established_timeout;
	__u32 closing_timeout; /* one FIN */
	__u32 closed_timeout;  /* both, or an RST */
	__u32 unreplied_timeout;
	__u32 udp_timeout;
	__u32 new_flows_per_tick; /* per CPU; 0: no limit */
	__u16 snat_first;         /* first port for SNAT, host byte order */
	__u16 snat_count;
	__u32 has_retval;    /* bpf_set_retval is there: refusals have their own errno */
	__u32 policy;        /* 0: pod devices judge nothing */
	__u32 dry_run;       /* 1: answers go to the map dry_run, and no other map is written */
	__u32 has_skb_netns; /* bpf_get_netns_cookie takes a packet of cgroup_skb */
	__u32 peer;          /* 1: packets between two pods of pod_peers go past the node's stack */
	__u32 early;         /* 1: XDP drops what the policy of such a pod denies; needs bpf_check_mtu */
};

#endif
