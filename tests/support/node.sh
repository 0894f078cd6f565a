# A node of a cluster: the script of cluster.rs, which sets before it NODE, NAME (of the cluster), UUID and START (the
# heartbeat region's first sector). It then obeys the second serial line: each command ends with an end of transmission.
CLUSTER=/sys/kernel/config/cluster/$NAME

# join: makes the cluster known and begins to heartbeat.
join() {
	ifconfig lo 127.0.0.1 up
	ifconfig eth0 "10.9.0.$((NODE + 1))" netmask 255.255.255.0 up
	mkdir -p "$CLUSTER"
	local n
	for n in 0 1; do
		mkdir "$CLUSTER/node/node$n"
		echo 7777 >"$CLUSTER/node/node$n/ipv4_port"
		echo "10.9.0.$((n + 1))" >"$CLUSTER/node/node$n/ipv4_address"
		echo "$n" >"$CLUSTER/node/node$n/num"
	done
	echo 1 >"$CLUSTER/node/node$NODE/local"
	# Dead after (8 - 1) * 2 s of silence, in place of a minute.
	echo 8 >"$CLUSTER/heartbeat/dead_threshold"
	mkdir "$CLUSTER/heartbeat/$UUID"
	echo 512 >"$CLUSTER/heartbeat/$UUID/block_bytes"
	echo "$START" >"$CLUSTER/heartbeat/$UUID/start_block"
	echo 255 >"$CLUSTER/heartbeat/$UUID/blocks"
	exec 5<>"$DISK"
	# Returns once the region is steady.
	echo 5 >"$CLUSTER/heartbeat/$UUID/dev"
	exec 5>&-
}

# leave: stops the heartbeat, if it is not stopped already.
leave() {
	[ ! -d "$CLUSTER/heartbeat/$UUID" ] || rmdir "$CLUSTER/heartbeat/$UUID"
}

# mount_vol [OPTION,...]: mounts $DISK at $MNT as this node.
mount_vol() {
	mount -t ocfs2 -o "heartbeat=local${1:+,$1}" "$DISK" "$MNT"
}

exec 3</dev/ttyS1
printf '\036ready\n'
while IFS= read -r -d $'\004' command <&3; do
	status=0
	bash -c 'set -eE -o pipefail; trap '\''echo "rig: status $? from: $BASH_COMMAND" >&2'\'' ERR; eval "$1"' \
		node "$(declare -f); $(declare -p CLUSTER NODE UUID START); $command" || status=$?
	printf '\036did %d\n' "$status"
done
