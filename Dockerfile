# CPU:   docker build -t protoseg .
# CUDA:  docker build -t protoseg --build-arg TORCH=default .    (the driver comes from the host)
# Use:   docker run --rm -it --gpus all -v "$PWD":/project protoseg sweep quickstart
FROM python:3.11-slim-bookworm
ARG TORCH=cpu
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends git make gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /opt/protoseg
# The package replaces the editable installation: runs and results go to /project, or to its project.
RUN cd /opt/protoseg \
    && export PIP_NO_CACHE_DIR=1 \
    && make setup TORCH="$TORCH" \
    && .venv/bin/python -m pip install --no-deps --no-build-isolation .
ENV PATH=/opt/protoseg/.venv/bin:$PATH
WORKDIR /project
ENTRYPOINT ["protoseg"]
