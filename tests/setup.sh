#!/usr/bin/env bash
# Installs the system packages that the build and the tests need, on Debian or Ubuntu, as root or by sudo.
# What is there already is left alone: a second run changes nothing and takes a second.
#
#   tests/setup.sh [--build-only]
set -euo pipefail

build_only=no
case "${1-}" in
  "") ;;
  --build-only) build_only=yes ;;
  *) echo "usage: tests/setup.sh [--build-only]" >&2; exit 2 ;;
esac

fail() { echo "setup: $*" >&2; exit 1; }
# want PACKAGES... unless "COMMAND": packages whose effect COMMAND can see.
packages=()
want() {
  local needed=()
  while [ "$1" != unless ]; do needed+=("$1"); shift; done
  sh -c "$2" >/dev/null 2>&1 || packages+=("${needed[@]}")
}

want gcc g++ libc6-dev make unless "gcc --version && g++ --version && make --version && test -e /usr/include/stdio.h"
want pkg-config unless "pkg-config --version"
want libssl-dev unless "pkg-config --exists openssl"
want curl ca-certificates unless "curl --version && test -e /etc/ssl/certs/ca-certificates.crt"
if [ $build_only = no ]; then
  # Kafka 4 runs on Java 17 or newer.
  want openjdk-17-jdk-headless unless "java -version 2>&1 | grep -qE 'version \"(1[7-9]|[2-9][0-9])'"
  want maven unless "mvn --version"
  want nodejs npm unless "node --version && npm --version"
  want python3 python3-venv unless "python3 -c 'import ensurepip, venv'"
  want golang-go unless "go version"
  want strace unless "strace -V"
  # Networks and disks of the tests' own.
  want util-linux mount unless "unshare --version && nsenter --version && setpriv --version && losetup --version && mount --version"
  want iproute2 nftables e2fsprogs unless "ip -V && nft --version && command -v mkfs.ext4"
  want valgrind unless "valgrind --version"
  # The state of several controllers.
  want etcd-server unless "etcd --version"
  want procps unless "pgrep --version"
  # For tests/fleet.
  want openssl unless "openssl version"
  want mmdebstrap systemd-container openssh-client iproute2 nftables e2fsprogs unless \
    "mmdebstrap --version && systemd-nspawn --version && ssh -V && ip -V && nft --version && mkfs.ext4 -V"
  # The package starts a daemon where systemd runs; there, who wants its checks installs it.
  [ -d /run/systemd/system ] || want prometheus unless "promtool --version"
fi

if [ ${#packages[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "no apt-get here; install by hand what these Debian packages hold: ${packages[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "run as root, or install sudo: ${packages[*]} are missing"
    as_root=(sudo)
  fi
  echo "setup: installing ${packages[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" \
    >/dev/null
fi

command -v cargo >/dev/null || fail "no cargo here; install Rust with rustup (https://rustup.rs), then open a new shell"
# The version that the workspace asks for, from its one place.
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
have=$(rustc --version | cut -d' ' -f2)
printf '%s\n%s\n' "$wanted" "$have" | sort -CV || fail "rustc $have is older than $wanted; run: rustup update"
for tool in fmt clippy; do
  cargo $tool --version >/dev/null 2>&1 || fail "no cargo $tool here; run: rustup component add rustfmt clippy"
done
echo "setup: ready"
