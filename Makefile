# SPDX-License-Identifier: Apache-2.0
.PHONY: bpf
bpf:
	@$(MAKE) --no-print-directory -C bpf
