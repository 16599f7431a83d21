# syntax=docker/dockerfile:1
# The trainer, and the services beside an application that serve its model (online/): they have one
# environment, and Ray on Kubernetes needs the same image for all its pods. `make image` builds it;
# docs/deployment.md. The first two stages are those of Dockerfile, with other packages.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*

FROM python AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY trainer/pyproject.toml trainer/
COPY requirements requirements
COPY services/__init__.py services/bootstrap.py services/java.py services/
RUN --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    mkdir configuration corrections presentation schemas \
 && if [ -f /run/secrets/certificates ]; then export SSL_CERT_FILE=/run/secrets/certificates; fi \
 && UV_LINK_MODE=copy PIP_CERT="${SSL_CERT_FILE:-}" \
    python3 -m services.bootstrap online
COPY docker/shrink.py docker/
RUN .venv-trainer/bin/python docker/shrink.py .venv-trainer

FROM python
# ray: under a name that a login shell finds, too.
RUN useradd --no-create-home --home-dir /tmp --uid 9999 trainer \
 && install -d -o trainer -g trainer /data \
 && ln -s /app/.venv-trainer/bin/ray /usr/local/bin/ray \
 && rm -rf /var/log/* /var/cache/*
COPY --from=build /app/.venv-trainer /app/.venv-trainer
COPY schemas /app/schemas
COPY configuration /app/configuration
COPY corrections /app/corrections
COPY presentation /app/presentation
COPY udfs /app/udfs
COPY jobs /app/jobs
COPY trainer /app/trainer
COPY online /app/online
COPY docker/health.py /
# Only /tmp and /data are ever written.
ENV PATH="/app/.venv-trainer/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
USER 9999:9999
WORKDIR /tmp
# metrics of the trainer and of the services, if the configuration has these ports
EXPOSE 8080 9400
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "/health.py", "9400"]
CMD ["python", "-m", "trainer.train", "--help"]
