# The published environment for CPUs: Debian 12 has Python 3.11, and constraints.txt the versions of every package.
#
#   docker build --tag layerpipe2 .
#   docker run --name reproduction layerpipe2     # make reproduce
#   docker cp reproduction:/layerpipe2/paper_figures/out .
FROM debian:bookworm-slim

# The CPU build of torch: the default one brings CUDA along, three times the disk space.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_NO_CACHE_DIR=1 LOCKED=1

WORKDIR /layerpipe2
COPY . .
RUN .ci/install

CMD ["make", "reproduce"]
