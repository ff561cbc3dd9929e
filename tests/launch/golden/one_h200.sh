#!/bin/bash

# Parameters
#SBATCH --array=0-2
#SBATCH --chdir='/scratch/meine läufe/.submissions/20260102-030405-abcdef'
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=h200:1
#SBATCH --job-name=matrix.abcdef
#SBATCH --mem=120G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/scratch/meine läufe/.submissions/20260102-030405-abcdef/logs/%A_%a.txt'
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=4:00:00

# setup
umask o-w

# command
export SUBMITIT_EXECUTOR=slurm
exec '/opt/my venv/bin/python' -m protoseg.launch.task '/scratch/meine läufe/.submissions/20260102-030405-abcdef'
