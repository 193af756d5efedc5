# The kit in a container, by the same make targets as everywhere.
#   docker build -t rpo_nb .                                        on a CPU, with torch's own CPU wheels
#   docker build -t rpo_nb --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 --build-arg TORCH= .    on a CUDA GPU
#   docker run --rm -v "$PWD/results:/kit/results" rpo_nb make reproduce PROFILE=smoke
#   docker run --rm -p 8888:8888 rpo_nb make lab ARGS="--ip=0.0.0.0 --no-browser"
#   mkdir -p build && docker run --rm --user "$(id -u)" -v "$PWD/build:/kit/build" rpo_nb make site
ARG BASE=debian:13-slim
FROM ${BASE}
# An index beside the usual one; empty: the usual one's torch, which brings CUDA's libraries.
ARG TORCH=https://download.pytorch.org/whl/cpu
ENV PIP_EXTRA_INDEX_URL=${TORCH}
RUN apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
     ca-certificates git make python3 python3-venv \
  && rm -rf /var/lib/apt/lists/*
# Not as root: what the container writes into a mounted results/ belongs to a user. Another one: --user "$(id -u)".
RUN useradd --create-home --uid 1001 kit && mkdir /kit && chown kit /kit
USER kit
WORKDIR /kit
COPY --chown=kit Makefile pyproject.toml requirements.lock README.md ./
COPY --chown=kit rpo_nb rpo_nb
RUN make setup
COPY --chown=kit . .
CMD ["make", "reproduce"]
