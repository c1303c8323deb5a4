#!/bin/bash
# fedray on several nodes of Slurm: one Ray over all nodes of the job, then one run on it.
#
#   sbatch --nodes=4 experiments/cluster/slurm.sh experiments/cifar10.toml --rounds 100
#   sbatch --nodes=2 --gpus-per-node=4 experiments/cluster/slurm.sh experiments/cifar10.toml
#   PROGRAM=fedray.sweep sbatch --nodes=4 experiments/cluster/slurm.sh experiments/lr.toml
#
# The same environment with fedray must be active on every node, as it is where sbatch is called: on a shared file system,
# with the `python` and the `ray` of one virtual environment in PATH. Results go where the job starts. Variables:
#
#   PROGRAM       the program: fedray, or fedray.sweep
#   HEAD_ADDRESS  the head's address, where `hostname -I` begins with that of a network that others cannot reach
#   RAY_PORT      the head's port
#
# Two minutes before its time is up the run gets SIGTERM: it ends its round, and the same sbatch goes on from there.
#
# What was never done: this script never ran on a cluster with Slurm, nor on more than one machine, nor with GPUs. bash -n
# and shellcheck 0.11.0 have nothing to say of it. tests/experiments/test_cluster_files.py runs it with stand-ins for srun
# and scontrol.

#SBATCH --job-name=fedray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120

set -euo pipefail

if (($# == 0)); then
    echo "name the settings file, as in sbatch experiments/cluster/slurm.sh experiments/cifar10.toml" >&2
    exit 2
fi

program=${PROGRAM:-fedray}
port=${RAY_PORT:-6379}
address=${HEAD_ADDRESS:-$(hostname -I | cut -d ' ' -f 1)} # this script runs on the first node
cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
steps=()
run=
asked=
told=

export RAY_USAGE_STATS_ENABLED=0
if [[ -f ~/.ray/auth_token ]]; then
    export RAY_AUTH_MODE=token # every node asks for it then; the home is taken to be shared
fi

# shellcheck disable=SC2329  # the trap calls it
end() {
    if ((${#steps[@]})); then
        kill "${steps[@]}" 2>/dev/null || true # their ray start --block ends Ray with them
        wait "${steps[@]}" 2>/dev/null || true
    fi
}
trap end EXIT

# shellcheck disable=SC2329  # the trap calls it
interrupt() {
    asked=1 # where the run is just being started, it is told below
    [[ -z $run ]] || { told=1; kill -TERM "$run" 2>/dev/null || true; }
}
trap interrupt TERM INT

# Start Ray on some nodes, as a step that goes on in the background: on_nodes NODE,... COUNT [OPTION ...]
on_nodes() {
    srun --nodelist="$1" --nodes="$2" --ntasks="$2" --ntasks-per-node=1 --cpus-per-task="$cpus" --mem=0 \
        ray start "${@:3}" --num-cpus="$cpus" --block &
    steps+=($!)
}

# The nodes that are up, of all.
up() {
    ray status --address "$address:$port" 2>/dev/null | grep -c '^ 1 node_' || true
}

# Wait until so many nodes are up: wait_for COUNT SECONDS
wait_for() {
    local deadline=$((SECONDS + $2))
    until (($(up) >= $1)); do
        [[ -z $asked ]] || exit 143 # there is nothing to save yet
        kill -0 "${steps[0]}" 2>/dev/null || { echo "the head's Ray ended" >&2; exit 1; }
        ((SECONDS < deadline)) || return 1
        sleep 1
    done
}

on_nodes "${nodes[0]}" 1 --head --node-ip-address="$address" --port="$port"
wait_for 1 120 || { echo "the head's Ray does not answer at $address:$port" >&2; exit 1; }
if ((${#nodes[@]} > 1)); then
    others=$(IFS=,; echo "${nodes[*]:1}")
    on_nodes "$others" $((${#nodes[@]} - 1)) --address="$address:$port"
    # One that is late is used from one of the next rounds on.
    wait_for ${#nodes[@]} 120 || echo "$(up) of ${#nodes[@]} nodes are up; the run begins without the others" >&2
fi

[[ -z $asked ]] || exit 143
python -m "$program" "$@" --cluster.address "$address:$port" &
run=$!
[[ -z $asked || -n $told ]] || kill -TERM "$run"
status=0
wait "$run" || status=$?
if kill -0 "$run" 2>/dev/null; then # the wait ended with a signal, and the run ends its round
    status=0
    wait "$run" || status=$?
fi
exit "$status"
