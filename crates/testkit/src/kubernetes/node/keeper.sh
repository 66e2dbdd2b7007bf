# Runs a node in namespaces and cgroups of its own, and removes the cgroups and its directory when it is over.
# $1: name of the cgroups. $2: the directory. Standard input: commands for the node's first process, whose end ends the node.
name=$1 directory=$2

# The roots of the cgroup hierarchies: of version 1 those that have controllers or a name, or the one of version 2.
hierarchies() {
  version_1=$(awk '$3 == "cgroup" { print $2 }' /proc/mounts)
  echo "${version_1:-$(awk '$3 == "cgroup2" { print $2 }' /proc/mounts)}"
}

remove() { # name: what is in use stays
  for root in $(hierarchies); do
    [ ! -d "$root/$1" ] || find "$root/$1" -depth -type d -exec rmdir {} + 2>/dev/null
  done
}

# Those of a keeper that was killed.
for root in $(hierarchies); do
  for left in "$root"/waymark-node-*; do
    [ -d "$left" ] && [ ! -d "/proc/${left##*-}" ] && remove "${left##*/}"
  done
done

for root in $(hierarchies); do
  mkdir "$root/$name" || exit 1
  # Version 1 gives a new cpuset nothing.
  for file in cpuset.cpus cpuset.mems; do
    [ ! -f "$root/$name/$file" ] || cat "$root/$file" >"$root/$name/$file"
  done
  # Version 2 gives a new cgroup no controller unless it is told to.
  for controller in $(cat "$root/cgroup.controllers" 2>/dev/null); do
    echo "+$controller" >"$root/cgroup.subtree_control"
  done
done

# The node enters its cgroups before its namespaces, so that they are the roots of what it sees.
sh -c 'for file; do echo $$ >"$file" || exit 1; done
  exec unshare --mount --pid --uts --ipc --cgroup --net --fork --kill-child sh -s' node \
  $(hierarchies | sed "s|\$|/$name/cgroup.procs|")
status=$?

left() {
  remove "$name"
  # What made no node is kept, for somebody to read why.
  [ $status -ne 0 ] || rm -rf "$directory" 2>/dev/null || return 0
  for root in $(hierarchies); do
    [ ! -d "$root/$name" ] || return 0
  done
  return 1
}

# Processes may take a moment to be gone.
tries=0
while left; do
  tries=$((tries + 1))
  [ $tries -lt 100 ] || exit 1
  sleep 0.1
done
exit $status
