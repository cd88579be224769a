#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The image's root file system, the same for `make image` and for the Dockerfile.
#   rootfs.sh WHEEL TARGET     TARGET: a folder that is not there yet, or FILE.tar
# Needs mmdebstrap and a Python with pip. SOURCE_DATE_EPOCH dates the files; DEBIAN_MIRROR names another
# mirror, as one of snapshot.debian.org; PYTHON and PIP_CACHE_DIR as usual.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
site=usr/lib/python3/dist-packages

make_rootfs() { # WHEEL TARGET
	WHEEL=$(realpath "$1")
	export WHEEL
	packages=$(grep -v '^#' "$here/packages.txt" | paste -sd,)
	mmdebstrap --quiet --mode=root --variant=extract --skip=output/dev,cleanup --include="$packages" \
		--setup-hook="$here/rootfs.sh --merge-usr \"\$1\"" \
		--extract-hook="$here/rootfs.sh --fill \"\$1\"" \
		bookworm "$2" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
}

merge_usr() { # ROOT
	for folder in bin sbin lib lib64; do
		mkdir -p "$1/usr/$folder"
		ln -s "usr/$folder" "$1/$folder"
	done
}

fill() { # ROOT
	list_packages "$1"
	prune_debian "$1"
	install_python "$1"
	configure "$1"
}

list_packages() { # ROOT: what scanners read; nobody else asks dpkg for it
	for package in "$1"/var/cache/apt/archives/*.deb; do
		[ -e "$package" ] || return 0
		dpkg-deb -f "$package" | sed 's/^Version:/Status: install ok installed\n&/'
		echo
	done >"$1/var/lib/dpkg/status"
}

prune_debian() { # ROOT: what a container of one program never opens. Copyright files stay.
	(
		cd "$1"
		find usr/share/doc -type f ! -name copyright -delete
		rm -rf usr/share/man usr/share/info usr/share/locale usr/share/lintian usr/share/bash-completion \
			usr/share/perl5 usr/share/debconf usr/share/pixmaps usr/share/bug usr/share/common-licenses/GFDL* \
			usr/share/dpkg usr/share/readline usr/share/keyrings usr/share/initramfs-tools usr/share/awk
		rm -rf usr/bin/dpkg* usr/bin/tar usr/bin/mawk usr/bin/debconf* usr/sbin/dpkg* usr/sbin/debconf* usr/lib/dpkg \
			usr/bin/update-alternatives usr/sbin/start-stop-daemon usr/lib/mime usr/lib/systemd
		cd usr/lib/python3.11
		rm -rf ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo distutils turtle.py pydoc.py \
			config-* lib-dynload/_test* lib-dynload/xx* lib-dynload/nis.* lib-dynload/_dbm.* \
			LICENSE.txt EXTERNALLY-MANAGED
		cd ../*-linux-gnu
		rm -rf libdb-5* libnsl.* libtirpc.* libkrb5* libk5crypto* libgssapi_krb5* libkeyutils* \
			libcom_err* gconv krb5 libmvec* libpcre2* libselinux* libmd.* libacl.*
	)
}

install_python() { # ROOT: locked wheels for the image's Python, whatever Python runs this
	machine=$(uname -m)
	pip="${PYTHON:-python3} -m pip --disable-pip-version-check install --quiet --no-deps --no-compile
		--root-user-action=ignore --implementation cp --python-version 3.11 --target $1/$site"
	# shellcheck disable=SC2086
	$pip --platform "manylinux_2_17_$machine" --platform "manylinux_2_28_$machine" --only-binary=:all: \
		--require-hashes -r "$here/requirements.txt"
	# shellcheck disable=SC2086
	$pip --no-index --upgrade "$WHEEL"
	(
		cd "$1/$site"
		rm -rf bin
		find . -name '*.pyi' -delete
		find . \( -path '*.dist-info/RECORD' -o -path '*.dist-info/INSTALLER' -o -path '*.dist-info/REQUESTED' \
			-o -path '*.dist-info/direct_url.json' -o -path '*.dist-info/WHEEL' \) -delete
		# Credentials are all that is used of the Kubernetes client (netaccel/apiserver/light.py).
		rm -rf kubernetes_asyncio/client/models kubernetes_asyncio/client/api
		rm -rf pygments/lexers pygments/styles pygments/formatters tzdata/zoneinfo
		find netaccel/cluster netaccel/lab -mindepth 1 ! -path '*/lab/__init__.py' ! -path '*/cluster/__init__.py' -delete
	)
	find "$1/usr/lib" -name __pycache__ -prune -exec rm -rf {} +
	# Nobody edits an image's sources: so no look at each of them when the agent starts.
	chroot "$1" /usr/bin/python3.11 -I -m compileall -q --invalidation-mode unchecked-hash \
		/usr/lib/python3.11 "/$site"
}

configure() { # ROOT
	(
		cd "$1"
		ln -sf python3.11 usr/bin/python3
		for applet in $(chroot . /usr/bin/busybox --list); do # for whoever looks around in a pod
			[ -e "usr/bin/$applet" ] || [ -e "usr/sbin/$applet" ] || ln -s busybox "usr/bin/$applet"
		done
		cat >usr/bin/netaccel <<-'PROGRAM'
			#!/usr/bin/python3 -I
			from netaccel.__main__ import main

			main()
		PROGRAM
		chmod 755 usr/bin/netaccel
		echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
		echo 'root:x:0:' >etc/group
		printf 'passwd: files\ngroup: files\nhosts: files dns\n' >etc/nsswitch.conf
		mkdir -p etc/netaccel run/netaccel var/lib/netaccel
		rm -rf tmp/* var/cache/* var/lib/apt var/log/* var/lib/dpkg/*-old var/lib/dpkg/lock* etc/apt \
			etc/hostname etc/resolv.conf etc/kernel etc/dpkg etc/cron.daily etc/alternatives etc/logrotate.d boot home srv
	)
}

case ${1:-} in
--merge-usr) merge_usr "$2" ;;
--fill) fill "$2" ;;
'' | -*) sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,6p' >&2 && exit 2 ;;
*) make_rootfs "$@" ;;
esac
