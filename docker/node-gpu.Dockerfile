# A hospital's node with an NVIDIA GPU (CUDA 13): DICOM receiver, inference, worklist; and its SuperNode, by another command.
ARG BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --create-home --uid 10001 vigie

WORKDIR /opt/vigie
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY server server
COPY models models
COPY configs configs
COPY scripts scripts
RUN scripts/install --no-dev --gpu

ENV PATH=/opt/vigie/.venv/bin:$PATH VIGIE_SITE=/var/lib/vigie
RUN install -d -o vigie -g vigie /var/lib/vigie
USER 10001
VOLUME /var/lib/vigie
# DICOM, worklist and API
EXPOSE 11112 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/api/health', timeout=3)"]
CMD ["vigie", "site", "run"]
