# Filling of the golden images: each function makes one directory with one kind of thing in it.
# BS is the block size, CS the cluster size of the volume.
cd_new() {
	mkdir "$1"
	cd "$1"
}

# words TEXT BYTES: numbered lines, so that no two clusters are alike.
words() {
	awk -v text="$1" -v left="$2" 'BEGIN {
		while (left > 0) { line = sprintf("%s %07d\n", text, n++); printf "%s", substr(line, 1, left); left -= length(line) }
	}'
}

# scattered FILE PIECES STEP: writes the first cluster of each STEP.
scattered() {
	awk -v n="$2" -v step=$((CS * $3)) -v cs="$CS" 'BEGIN {
		for (i = 0; i < n; i++) printf "pwrite -q -S %d %d %d\n", i % 251 + 1, i * step, cs
	}' | xfs_io -f "$1" >/dev/null
}

# many NAMES: a directory of that many names, of different lengths, every third of them removed again.
many() (
	cd_new many
	: >one
	local i tail='-of-the-many-names-that-fill-a-directory-and-its-index'
	for ((i = 0; i < $1; i++)); do
		ln one "$i${tail:0:i % 50}"
	done
	for ((i = 0; i < $1; i += 3)); do
		printf '%s\0' "$i${tail:0:i % 50}"
	done | xargs -0 rm
)

# inline: sizes around the most that fits an inode, with and without room kept for attributes.
inline() (
	cd_new inline
	local size most=$((BS - 0xC8))
	for size in 0 1 100 $((most - 256)) $((most - 255)) $((most - 1)) $most $((most + 1)) $BS; do
		words inline $size >size-$size
	done
	words both 40 >attribute-and-data
	setfattr -n user.small -v value attribute-and-data
	mkdir few
	: >few/a
	: >few/b
)

holes() (
	cd_new holes
	truncate -s 1M only
	xfs_io -f -c "pwrite -q -S 1 $((CS * 3)) 10" -c "pwrite -q -S 2 $((CS * 7 + 5)) $CS" -c "truncate $((CS * 12 + 1))" middle
	words start 100 >beyond-end
	truncate -s $((CS * 2)) beyond-end
)

# unwritten: preallocated in whole and in part written; one hole punched.
unwritten() (
	cd_new unwritten
	fallocate -l $((CS * 8)) all
	fallocate -l $((CS * 9)) some
	xfs_io -c "pwrite -q -S 3 $((CS * 2)) $CS" -c "pwrite -q -S 4 $((CS * 5 + 7)) 11" some
	words punched $((CS * 6)) >punched
	fallocate -p -o $((CS * 2)) -l $((CS * 2)) punched
)

# kept: preallocation beyond the end of the file, which fsck.ocfs2 wrongly objects to.
kept() (
	cd_new kept
	echo short >file
	fallocate -n -l $((CS * 6)) file
)

# fragmented PIECES: a tree of extents, cut and with a piece removed.
fragmented() (
	cd_new fragmented
	scattered whole "$1" 2
	scattered cut "$1" 2
	truncate -s $((CS * $1 + 17)) cut
)

# attributes: in the inode, in a block, in a tree of buckets; values inside and outside; on all kinds of things.
attributes() (
	cd_new attributes
	: >inode
	setfattr -n user.one -v 1 inode
	setfattr -n user.empty inode
	setfattr -n trusted.two -v '"quoted"' inode
	: >block
	awk -v cs="$CS" 'BEGIN {
		print "# file: block"
		for (i = 0; i < 12; i++) printf "user.in-the-block-%d=\"value %d\"\n", i, i
		printf "user.outside=\""; for (i = 0; i < cs + 100; i++) printf "%d", i % 10; print "\""
	}' | setfattr --restore=-
	: >buckets
	awk -v n="$1" 'BEGIN {
		print "# file: buckets"
		for (i = 0; i < n; i++) {
			printf "user.name-%d-of-very-many=\"", i
			for (k = 0; k < i % 130; k++) printf "%d", k % 10
			print "\""
		}
	}' | setfattr --restore=-
	awk -v n="$1" 'BEGIN { for (i = 0; i < n; i += 5) printf "user.name-%d-of-very-many\n", i }' |
		while read -r name; do setfattr -x "$name" buckets; done
	mkdir directory
	setfattr -n user.on -v directory directory
	ln -s inode symlink
	setfattr -h -n trusted.on -v symlink symlink
)

acls() (
	cd_new acls
	: >file
	setfacl -m u:1000:rw,g:100:r,m::rwx file
	mkdir directory
	setfacl -m u:1000:rwx -d -m u:1001:rx,g::rx directory
	: >directory/heir
	mkdir directory/inner
)

# reflinks: clones untouched, written, appended to, cut; clones of clones; originals removed; ranges; attributes shared.
reflinks() (
	cd_new reflinks
	words original $((CS * 24)) >original
	local clone
	for clone in same written appended cut; do
		cp --reflink=always original $clone
	done
	cp --reflink=always written second
	xfs_io -c "pwrite -q -S 5 $((CS * 4)) $CS" -c "pwrite -q -S 6 $((CS * 9 + 3)) 20" written
	words more $((CS + 9)) >>appended
	truncate -s $((CS * 5 + 5)) cut
	words gone $((CS * 4)) >gone
	cp --reflink=always gone left
	rm gone
	words alone $((CS * 4)) >alone
	cp --reflink=always alone rewritten
	xfs_io -c "pwrite -q -S 7 0 $((CS * 4))" rewritten
	: >range
	xfs_io -c "reflink original $((CS * 2)) $((CS * 8)) $((CS * 3))" range >/dev/null
)

# shared PIECES: so many pieces shared, every second of the clone written again, that the refcounts need a tree.
shared() (
	cd_new shared
	scattered first "$1" 2
	cp --reflink=always first clone
	awk -v n="$1" -v step=$((CS * 4)) 'BEGIN {
		for (i = 0; i * 2 < n; i++) printf "pwrite -q -S 255 %d 1\n", i * step
	}' | xfs_io clone >/dev/null
	cp --reflink=always clone third
)

# attribute_clones: attributes whose outside values are shared by reflink.
attribute_clones() (
	cd_new attribute_clones
	words data $CS >file
	awk 'BEGIN {
		print "# file: file"
		for (i = 0; i < 6; i++) { printf "user.%d=\"", i; for (k = 0; k < 900; k++) printf "%d", (i + k) % 10; print "\"" }
	}' | setfattr --restore=-
	cp --reflink=always --preserve=xattr file clone
	xfs_io -c "reflink file" copy -f >/dev/null
)

links() (
	cd_new links
	echo linked >a
	ln a b
	mkdir -p deep/er/and/deep/er
	ln a deep/er/and/c
	ln -s a fast
	ln -s ../absent/"$(printf '%060d' 7)" dangling
	local long
	printf -v long '%0*d' $((BS - 0xC0 - 1)) 0
	[ ${#long} -lt 4096 ] && ln -s "$long" longest-fast
	[ $((BS - 0xC0)) -lt 4096 ] && ln -s "0$long" shortest-slow
	printf -v long '%0250d' 1
	: >"name-$long"
	: >$'odd\nname\twith\\all'
	: >' '
	: >$'latin-\xe9'
	: >'grüße'
)

devices() (
	cd_new devices
	mknod null c 1 3
	mknod large b 259 65540
	mknod fifo p
)

# owners: owners, modes, flags and times of all sorts.
owners() (
	cd_new owners
	local id
	for id in 1 1000 65534 4000000000; do
		words owner $((CS + id % 7)) >user-$id
		chown $id:$((id / 2)) user-$id
	done
	: >setuid
	chmod 6755 setuid
	: >none
	chmod 0 none
	mkdir sticky
	chmod 1777 sticky
	: >nodump
	chattr +d nodump
	: >old
	touch -d '1975-04-01 01:02:03.004005006 UTC' old
	: >late
	touch -d '2040-02-29 23:59:59.999999999 UTC' late
)

# foreign_names FROM TO: names with bytes of 0x80 and above, whose hash depends on the kernel that enters them.
foreign_names() (
	mkdir -p foreign
	cd foreign
	local i
	for ((i = $1; i < $2; i++)); do
		: >"$i-größe-ñandú-日本"
		: >"$i"$'-\xe4\xf6\xfc'
		: >"$i-plain"
	done
)

# orphans: files removed while they are open, one of them large and shared.
orphans() {
	(
		cd_new orphans
		words small 60 >small
		scattered large 40 2
		cp --reflink=always large clone
		mkdir directory
	)
	exec 5<orphans/small 6<orphans/large
	rm orphans/small orphans/large
}

# crumble: leaves only pieces of eight clusters free. (A group of blocks can be in some hundred pieces, not in more.)
crumble() (
	cd_new crumble
	# A tree of extents brings a group of extent blocks, without which no hole can be punched when nothing is free.
	scattered tree 300 2
	rm tree
	sync
	local clusters=$(($(stat -f -c %a .) * BS / CS))
	awk -v n="$clusters" -v cs="$CS" 'BEGIN { for (i = 0; i < n; i++) printf "falloc %d %d\n", i * cs, cs }' |
		xfs_io -f all >/dev/null 2>&1 || echo "full after $(stat -c %b all) sectors"
	sync
	awk -v n="$clusters" -v cs="$CS" 'BEGIN { for (i = 0; i < n; i += 16) printf "fpunch %d %d\n", i * cs, 8 * cs }' |
		xfs_io all >/dev/null
	sync
)

# many_files FILES: as many inodes.
many_files() (
	cd_new many_files
	local i
	for ((i = 0; i < $1; i++)); do : >"$i"; done
)

# limits: limits of users and groups, one of them exceeded, after some usage; what the driver then reports.
limits() {
	owners
	cd /
	umount_vol
	mount_vol usrquota,grpquota
	cd "$MNT"
	xfs_quota -x -f -c 'limit -u bsoft=1m bhard=3m isoft=10 ihard=20 1000' "$MNT"
	xfs_quota -x -f -c 'limit -u bsoft=4k bhard=1g 65534' "$MNT"
	xfs_quota -x -f -c 'limit -g isoft=1 ihard=5 500' "$MNT"
	xfs_quota -x -f -c 'limit -g bhard=5g 123456789' "$MNT"
	local id
	for id in $(seq 2000 2030); do
		: >owners/of-$id
		chown $id:$id owners/of-$id
	done
	words over 20000 >owners/over
	chown 65534:500 owners/over
	: >owners/over-too
	chown 65534:500 owners/over-too
	sync
	xfs_quota -x -f -c 'report -ugnN -b -i' "$MNT" >"$OUT/quota"
}

# truncated: a file in pieces is removed; the driver frees its clusters two seconds later, or never.
truncated() {
	(
		cd_new truncated
		scattered large 60 2
		: >other
	)
	sync
	rm truncated/large
	xfs_io -c 'pwrite -q 0 4096' -c fsync truncated/other
}

cd "$MNT"
