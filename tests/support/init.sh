#!/bin/busybox sh
# The guest's first process: brings up the driver, runs the script it was handed, tells how it went, switches off.
#
# Two serial lines: the first is the kernel's console and the script's stderr, for people; the second carries the
# protocol that guest.rs reads, sections each begun by a record separator (octal 036).
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt /out /etc /root /run
/bin/busybox --install -s /bin
export PATH=/gnu:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS0 2>&1
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
echo 'root:x:0:' >/etc/group
ln -s /proc/self/mounts /etc/mtab
stty -F /dev/ttyS1 raw -echo
. /rig/env
for module in $MODULES; do
	insmod "/modules/$module.ko" || echo "rig: cannot load $module"
done
mount -t configfs configfs /sys/kernel/config 2>/dev/null
{
	printf '\036begin\n'
	bash /rig/run.sh
	printf '\036status %d\n' $?
	cd /
	if [ -n "$(ls -A /out)" ]; then
		tar -cf "$OUT_DISK" -C /out . || echo "rig: cannot hand out the files" >&2
	fi
	sync
	printf '\036dmesg\n'
	dmesg -r 2>/dev/null || dmesg
	printf '\036end\n'
} >/dev/ttyS1
poweroff -f
