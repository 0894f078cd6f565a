#!/usr/bin/env bash
# Builds cowfs and installs its programs, manual pages, completions and JSON Schemas.
#
#   ./install.sh [--prefix DIR] [--profile NAME]
#
#   --prefix DIR     install below DIR (default: /usr/local)
#   --profile NAME   build with this cargo profile (default: release)
#   -h, --help       print this and exit
#
# DESTDIR in the environment is put in front of the prefix, as packagers expect. Run through sudo, it still builds as the
# user who called sudo. The exit status is 0 when everything is installed.
set -eu

fail() {
	echo "install.sh: $1" >&2
	exit "${2-1}"
}

source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=/usr/local
profile=release
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help)
		sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$source/install.sh"
		exit 0
		;;
	--prefix=*) prefix=${1#*=} ;;
	--profile=*) profile=${1#*=} ;;
	--prefix | --profile)
		[ $# -ge 2 ] || fail "$1 needs a value" 2
		if [ "$1" = --prefix ]; then prefix=$2; else profile=$2; fi
		shift
		;;
	*) fail "unknown argument \"$1\"; --help lists them" 2 ;;
	esac
	shift
done
[ -n "$prefix" ] || fail "--prefix is empty" 2
case $prefix in
/*) ;;
*) prefix=$PWD/$prefix ;;
esac
root=${DESTDIR-}$prefix

# Before minutes of building, see that there is a place for the result.
mkdir -p "$root/sbin" 2>/dev/null && [ -w "$root/sbin" ] ||
	fail "cannot write to $root/sbin; run it with sudo, or choose another place with --prefix"

# The user who builds: under sudo the caller, whose toolchain and target directory it is.
builder=()
home=${HOME-}
if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER-}" ] && [ "$SUDO_USER" != root ]; then
	builder=(sudo -u "$SUDO_USER" -H env)
	home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
fi
cargo=$(PATH=$PATH:$home/.cargo/bin command -v cargo) ||
	fail "no cargo: install a Rust toolchain (https://rustup.rs)"
as_builder() { ${builder[@]+"${builder[@]}"} "$@"; }

cd "$source"
echo "building with profile $profile"
packages=(-p mkfs-cowfs -p fsck-cowfs -p debugfs-cowfs -p reflink-cowfs -p cowfs-tests)
names=(mkfs fsck debugfs reflink)
bins=(--bin gen-docs)
for name in "${names[@]}"; do bins+=(--bin "$name-cowfs"); done
as_builder "$cargo" build --locked --quiet --profile "$profile" "${packages[@]}" "${bins[@]}"
target=$(as_builder "$cargo" metadata --format-version 1 --no-deps --offline |
	sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
case $profile in
dev) built=$target/debug ;;
*) built=$target/$profile ;;
esac

docs=$(mktemp -d)
trap 'rm -rf "$docs"' EXIT
"$built/gen-docs" "$docs"

put() {
	install -D -m "$1" "$2" "$root/$3"
	echo "installed $root/$3"
}
for name in "${names[@]}"; do
	put 755 "$built/$name-cowfs" "sbin/$name.cowfs"
done
for name in "${names[@]}"; do
	for file in "man/man8/$name.cowfs.8" "bash-completion/completions/$name.cowfs" \
		"zsh/vendor-completions/_$name.cowfs" "fish/vendor_completions.d/$name.cowfs.fish"; do
		put 644 "$docs/$file" "share/$file"
	done
done
put 644 "$docs/cowfs/debugfs.schema.json" share/cowfs/debugfs.schema.json
case :$PATH: in
*":$prefix/sbin:"*) ;;
*) echo "$prefix/sbin is not in PATH; add it, or call the programs by their full names" ;;
esac
