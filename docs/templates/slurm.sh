#!/usr/bin/env bash
# A worker inside a Slurm allocation: it executes the runs of the deployments until the time is over. docs/deployment.md says more.
#   sbatch --export=ALL,PREFECT_API_URL=http://login-node:4200/api docs/templates/slurm.sh
# To be adapted: partition, account, resources; BNF_HOME on a file system that the nodes share.
#SBATCH --job-name=bnf-worker
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --output=bnf-worker-%j.log
# Three minutes before the end the worker is told to stop: it cancels its run, which goes on from there in the next allocation.
#SBATCH --signal=B:TERM@180
set -euo pipefail

: "${PREFECT_API_URL:?must be the address of a Prefect server that the nodes reach, got none; see docs/deployment.md}"
# Slurm runs a copy of this file: the checkout is the folder that sbatch was called in.
checkout=${SLURM_SUBMIT_DIR:-$PWD}
export BNF_HOME=${BNF_HOME:-$checkout/.bnf}

# Replaces the shell, so that the signal reaches the worker.
exec "$checkout/.venv/bin/bnf" worker
