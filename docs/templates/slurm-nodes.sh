#!/usr/bin/env bash
# A run whose training takes several nodes of a Slurm job. The first node runs everything; it starts the others for the reference pass
# and the training, and they wait during the other stages. docs/scaling.md says more.
#   sbatch docs/templates/slurm-nodes.sh RECIPE [key=value …] [--only STAGE,…]
# To be adapted: partition, account, resources; checkout, BNF_HOME and HF_HOME on a file system that the nodes share.
#SBATCH --job-name=bnf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=bnf-%j.log
# One job of this name at a time: submit it twice, and the second goes on where the first had to end.
#SBATCH --dependency=singleton
# A job whose node failed is queued again.
#SBATCH --requeue
# Five minutes before the end the run is told to stop; the next one goes on from its last checkpoint.
#SBATCH --signal=B:TERM@300
set -euo pipefail

recipe=${1:?must be a recipe, got none; those of the paper lie in flows/recipes/paper}
shift
# Slurm runs a copy of this file: the checkout is the folder that sbatch was called in.
cd "${SLURM_SUBMIT_DIR:-$PWD}"
export BNF_HOME=${BNF_HOME:-$PWD/.bnf}
export HF_HOME=${HF_HOME:-$PWD/models/hub}

# The recipe must fit the job: as many nodes as it has, and a process for each GPU. It replaces the shell, so that the signal reaches it.
exec .venv/bin/bnf run "$recipe" "train.num_nodes=$SLURM_JOB_NUM_NODES" "train.nproc_per_node=$SLURM_GPUS_ON_NODE" "$@"
