#!/usr/bin/env bash
# Brings what the tests run against, below target/: the real stores' jars (Maven) and the real Forward senders (PyPI,
# npm, Go, Maven). Each part is made again only when its recipe changed: a second run takes no time.
set -euo pipefail
cd "$(dirname "$0")"

tests=$PWD
target=${CARGO_TARGET_DIR:-$(dirname "$tests")/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

# Two runs at once would write over each other.
exec 9>"$target/.prepare.lock"
flock 9

# part NAME DIRECTORY RECIPE_FILES... : runs the function make_NAME in an empty DIRECTORY unless its recipe is as before.
part() {
  local name=$1 dir=$target/$2 recipe
  shift 2
  recipe=$(cat "$@" "$tests/prepare.sh" | sha256sum)
  [ "$recipe" = "$(cat "$dir/.recipe" 2>/dev/null)" ] && return
  echo "prepare: $name"
  rm -rf "$dir"
  mkdir -p "$dir"
  (cd "$dir" && "make_$name")
  echo "$recipe" >"$dir/.recipe"
}

make_jars() { # POM
  mvn -q -B -f "$1" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$PWD/lib"
}
make_kafka() { make_jars "$tests/stores/kafka/pom.xml"; }
make_hdfs() { make_jars "$tests/stores/hdfs/pom.xml"; }
make_python() {
  python3 -m venv .
  bin/pip install -q --disable-pip-version-check -r "$tests/clients/python/requirements.txt"
}
make_node() {
  cp "$tests"/clients/node/package*.json .
  npm ci --silent --no-audit --no-fund
}
make_go() {
  local here=$PWD
  cd "$tests/clients/go" && go build -o "$here/send" .
}
make_java() {
  make_jars "$tests/clients/java/pom.xml"
  javac -cp 'lib/*' -d . "$tests/clients/java/Send.java"
}

part kafka stores/kafka stores/kafka/pom.xml
part hdfs stores/hdfs stores/hdfs/pom.xml
part python clients/python clients/python/requirements.txt
part node clients/node clients/node/package.json clients/node/package-lock.json
part go clients/go clients/go/go.mod clients/go/go.sum clients/go/send.go
part java clients/java clients/java/pom.xml clients/java/Send.java
echo "prepare: ready"
