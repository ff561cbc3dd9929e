#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2%2
#SBATCH --chdir='/scratch/meine läufe/.submissions/20260102-030405-abcdef'
#SBATCH --comment='half '"'"'n'"'"' half # \\ done'
#SBATCH --constraint='[rack1|rack2]&ssd'
#SBATCH --cpus-per-task=6
#SBATCH --exclusive
#SBATCH --gpus-per-node=h100:4
#SBATCH --job-name=matrix.abcdef
#SBATCH --mem=1536M
#SBATCH --nice=100
#SBATCH --no-requeue
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output='/scratch/meine läufe/.submissions/20260102-030405-abcdef/logs/%A_%a.txt'
#SBATCH --partition=a,b
#SBATCH --qos=long
#SBATCH --reservation=mine
#SBATCH --signal=USR2@300
#SBATCH --time=1-12:00:00

# setup
umask o-w
module load gcc/13 || exit 78
module load cuda/12.4 || exit 78
export PLAIN=1
export QUOTED='it'"'"'s "$HOME" `id`'
export EMPTY=''

# command
export SUBMITIT_EXECUTOR=slurm
exec '/opt/my venv/bin/python' -m protoseg.launch.task '/scratch/meine läufe/.submissions/20260102-030405-abcdef'
