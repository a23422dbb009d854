# syntax=docker/dockerfile:1
# The worker and every other command of `trs` that production runs; no embedded stack, no notebooks.
#
#   docker build --tag trs-stream .
#   docker run --rm trs-stream --version
#
# The same sources give the same image, if the base is named by digest and times are those of the commit:
#
#   docker buildx build --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:... \
#       --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --output type=image,name=trs-stream,rewrite-timestamp=true .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG SOURCE_DATE_EPOCH=0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PYTHONDONTWRITEBYTECODE=1 \
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH}
WORKDIR /src
RUN python -m venv /opt/trs
COPY requirements-worker.lock ./
RUN /opt/trs/bin/python -m pip install --require-hashes --only-binary :all: --requirement requirements-worker.lock
COPY requirements-build.lock pyproject.toml README.md LICENSE ./
COPY trs trs
COPY app app
COPY connectors connectors
COPY processors processors
COPY batch_bootstrap batch_bootstrap
COPY devstack devstack
RUN python -m venv /build && /build/bin/python -m pip install --require-hashes --only-binary :all: \
        --requirement requirements-build.lock \
    && /build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/trs/bin/python -m pip install --no-deps --no-index /wheel/*.whl \
    && /opt/trs/bin/python -m pip uninstall --yes setuptools pip
# Some packages ship examples that are no Python of this version: they stay uncompiled.
RUN /opt/trs/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/trs/lib || true

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="trs-stream" org.opencontainers.image.licenses="Apache-2.0"
# Names like app and processors must never be found in a working directory; bytecode was compiled above.
ENV PATH=/opt/trs/bin:$PATH PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 \
    TRS_HOME=/var/lib/trs TRS_LOG_FORMAT=json
RUN groupadd --gid 10001 trs && useradd --uid 10001 --gid trs --no-create-home --home-dir /var/lib/trs trs \
    && install --directory --owner=trs --group=trs /var/lib/trs
COPY --from=build /opt/trs /opt/trs
USER 10001:10001
WORKDIR /var/lib/trs
# All that is written goes here: the rest may be mounted read-only. Fargate gives a volume the owner that it has here.
VOLUME ["/var/lib/trs", "/tmp"]
EXPOSE 6066
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:6066/health', timeout=5)"]
ENTRYPOINT ["trs"]
CMD ["worker", "--wait"]
