#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests/running/test_cluster.py and to try docs/cluster.md. Debian or Ubuntu, as root:
#   apt-get install slurm-wlm        tests/slurm_here.sh start | stop | status
# It writes /etc/slurm/slurm.conf (the executor plugin strips SLURM_* inside jobs, so the configuration cannot be named in the
# environment) and removes it again. A Slurm that is configured here already is left alone.
set -euo pipefail
CONF=/etc/slurm/slurm.conf
OURS='# written by tests/slurm_here.sh'
STATE=/tmp/rpo_nb-slurm
NODE=$(hostname -s)

ours() { [ -f "$CONF" ] && head -1 "$CONF" | grep -qxF "$OURS"; }

stop() {
  ours || { echo 'no Slurm of ours is here'; return 0; }
  scancel --user root 2>/dev/null || true
  for daemon in slurmd slurmctld munged; do
    [ -f "$STATE/$daemon.pid" ] || continue
    pid=$(cat "$STATE/$daemon.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  done
  rm -rf "$CONF" "$STATE"
}

start() {
  [ "$(id -u)" = 0 ] || { echo 'Slurm is started as root only'; exit 1; }
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || { echo "$program is not installed: apt-get install slurm-wlm"; exit 1; }
  done
  [ ! -f "$CONF" ] || ours || { echo "$CONF is there and not ours: this machine has a Slurm already"; exit 1; }
  stop >/dev/null
  mkdir -p /etc/slurm "$STATE"/{ctld,d,munge}
  chown munge:munge "$STATE/munge" && chmod 755 "$STATE/munge"
  cat > "$CONF" <<EOF
$OURS
ClusterName=here
SlurmctldHost=$NODE(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$STATE/munge/socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=5
MinJobAge=7200
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/d
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
NodeName=$NODE NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024)) State=UNKNOWN
PartitionName=here Nodes=$NODE Default=YES MaxTime=INFINITE State=UP
EOF
  [ -s /etc/munge/munge.key ] || runuser -u munge -- mungekey
  runuser -u munge -- munged --socket="$STATE/munge/socket" --pid-file="$STATE/munge/munged.pid" \
    --log-file="$STATE/munge/munged.log" --seed-file="$STATE/munge/munged.seed"
  ln -s munge/munged.pid "$STATE/munged.pid"
  slurmctld
  slurmd
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && { echo "Slurm is up: $(sinfo --noheader --format='%P %D node, %c CPUs')"; exit 0; }
    sleep 0.2
  done
  echo "Slurm did not come up; the logs:"; tail -n 20 "$STATE"/*.log
  stop
  exit 1
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  status) ours && sinfo && squeue ;;
  *) echo "usage: $0 start | stop | status"; exit 2 ;;
esac
