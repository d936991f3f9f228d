# The coordinator: SuperLink and MLflow. It never sees an image.
ARG BASE=debian:bookworm-slim
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
RUN scripts/install --no-dev --stores

ENV PATH=/opt/vigie/.venv/bin:$PATH VIGIE_COORDINATOR=/var/lib/vigie
RUN install -d -o vigie -g vigie /var/lib/vigie
USER 10001
VOLUME /var/lib/vigie
# hospitals, over TLS; MLflow has no sign-in and listens inside the container only
EXPOSE 9091
STOPSIGNAL SIGTERM
CMD ["vigie", "coordinator", "run"]
