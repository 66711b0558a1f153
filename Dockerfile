# The published environment for CPUs: Debian 12 has Python 3.11, and constraints.txt the versions of every package.
#
#   docker build --tag layerpipe2 .               # --build-arg PIP_EXTRA_INDEX_URL=...: an index of torch's CPU builds
#   docker run --name reproduction layerpipe2     # make reproduce
#   docker cp reproduction:/layerpipe2/paper_figures/out .
FROM debian:bookworm-slim

# torch's default build brings CUDA along, three times the disk space of the CPU build.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 LOCKED=1

WORKDIR /layerpipe2
COPY . .
RUN .ci/install

CMD ["make", "reproduce"]
