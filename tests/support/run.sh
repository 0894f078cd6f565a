# What a script in a guest finds ready. A command that fails ends the script; the console tells which one.
set -eE -o pipefail
trap 'echo "rig: status $? from line $LINENO: $BASH_COMMAND" >&2' ERR
export DISK=/dev/vda MNT=/mnt OUT=/out IN=/in
. /rig/env

# mount_vol [OPTION,...]: mounts $DISK at $MNT. The driver wants the heartbeat named as soon as there is any option.
mount_vol() {
	if [ $# -gt 0 ]; then
		mount -t ocfs2 -o "heartbeat=none,$1" "$DISK" "$MNT"
	else
		mount -t ocfs2 "$DISK" "$MNT"
	fi
}

# umount_vol: unmounts it.
umount_vol() {
	cd /
	umount "$MNT"
}

# crash: the machine stops at once, with whatever was mounted still mounted. Nothing after it runs.
crash() {
	printf '\036crash\n'
	stty -F /dev/ttyS1 raw
	sleep 0.2
	echo b >/proc/sysrq-trigger
	sleep 60
}

# walk_vol NAME: records all that is below $MNT as the driver shows it, into files that walk.rs reads.
walk_vol() (
	cd "$MNT"
	find . -xdev -printf '%p\0%y\0%m\0%U\0%G\0%n\0%s\0%b\0%i\0%T@\0%l\0' >"$OUT/$1.find"
	find . -xdev \( -type b -o -type c \) -print0 | xargs -0 -r stat --printf '%n\0%Hr:%Lr\0' >"$OUT/$1.devices"
	find . -xdev -type f -print0 | xargs -0 -r sha256sum -z >"$OUT/$1.sums"
	# A volume without the xattr feature refuses each path; any other complaint is an error.
	if ! getfattr -R -P -h -d -m - -e hex . >"$OUT/$1.xattrs" 2>/tmp/complaints; then
		! grep -v 'Operation not supported$' /tmp/complaints >&2
	fi
)

# extents_vol NAME: records where the contents of every file below $MNT lie, into a file that extents.rs reads.
extents_vol() (
	cd "$MNT"
	find . -xdev -type f -size +0 -print0 | while IFS= read -r -d '' file; do
		printf '%s\0' "$file"
		filefrag -v -- "$file" | sed -n '/^ *[0-9]*: /p'
		printf '\0'
	done >"$OUT/$1.extents"
)

. /rig/script
