# The first process of a node: makes the place that the others find. What is written here is nowhere outside of it.
set -e
# As the machine outside counts; this /proc is still the one from there.
read -r pid _ </proc/self/stat
mount --make-rslave /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs run /run
mount -t tmpfs log /var/log
mkdir -p /run/lib/upper /run/lib/work /run/state
mount -t overlay overlay -o lowerdir=/var/lib,upperdir=/run/lib/upper,workdir=/run/lib/work /var/lib
mkdir -p /var/lib/kubelet
mount -t tmpfs kubelet /var/lib/kubelet

# The cgroup hierarchies as they are outside, with the node's own cgroups as their roots.
version_1=$(awk -F : '$2 != "" { print $2 }' /proc/self/cgroup)
if [ -z "$version_1" ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  # Only a cgroup without processes shares out controllers.
  mkdir /sys/fs/cgroup/node
  echo 1 >/sys/fs/cgroup/node/cgroup.procs
  for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
  done
else
  mount -t tmpfs cgroup /sys/fs/cgroup
  for hierarchy in $version_1; do
    at=/sys/fs/cgroup/$(echo "$hierarchy" | sed 's/name=//')
    mkdir "$at"
    mount -t cgroup -o "$hierarchy" cgroup "$at"
  done
fi

# The kubelet sets these for the whole machine: it is given others to write to.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  mkdir -p "/run/sys/${name%/*}"
  cat "/proc/sys/$name" >"/run/sys/$name"
  mount --bind "/run/sys/$name" "/proc/sys/$name"
done
# Volumes that a container mounts are seen by the others.
mount --make-rshared /

ip link set lo up
ip address add "$address/32" dev lo
# A way out that never is taken: kube-proxy sends on what is for a service.
ip route add "$services" dev lo src "$address"
echo "$pid" >"$directory/node.pid"
set +e
