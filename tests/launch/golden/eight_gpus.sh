#!/bin/bash

# Parameters
#SBATCH --account=my_project
#SBATCH --array=0-2%16
#SBATCH --chdir='/scratch/meine läufe/.submissions/20260102-030405-abcdef'
#SBATCH --cpus-per-task=4
#SBATCH --gpu-bind=none
#SBATCH --gpus-per-node=a100:1
#SBATCH --job-name=matrix.abcdef
#SBATCH --mail-type=FAIL
#SBATCH --mem=16G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/scratch/meine läufe/.submissions/20260102-030405-abcdef/logs/%A_%a.txt'
#SBATCH --partition=gpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --signal=USR2@300
#SBATCH --time=1:00:00

# setup
umask o-w
module load cuda/12.4 || exit 78
export NCCL_DEBUG=WARN
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1

# command
export SUBMITIT_EXECUTOR=slurm
exec '/opt/my venv/bin/python' -m protoseg.launch.task '/scratch/meine läufe/.submissions/20260102-030405-abcdef'
