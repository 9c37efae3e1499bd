# docker build -t tokenhub-proxy . && docker run -p 127.0.0.1:8900:8900 -v tokenhub:/data tokenhub-proxy
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# The compiler stays in this stage; whichever the base has today will do.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# The pinned parts first: a change of the code alone leaves this layer as it is.
COPY requirements/ requirements/
RUN python3 -m venv tools \
    && tools/bin/pip install --require-hashes --only-binary :all: --requirement requirements/compile.txt \
        --requirement requirements/release.txt \
    && python3 -m venv --without-pip /venv \
    && tools/bin/pip --python /venv/bin/python install --require-hashes --only-binary :all: \
        --requirement requirements/release.txt
COPY setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
COPY docs/tokenhub-proxy.1 docs/
COPY scripts/compile.py scripts/
COPY tokenhub_proxy/ tokenhub_proxy/
# What a call passes through becomes machine code; this takes a minute or two and 600 MB of memory.
RUN tools/bin/python scripts/compile.py \
    && tools/bin/pip --python /venv/bin/python install --no-deps ./*.whl

FROM python:${PYTHON}
# The number is what a volume's files belong to; /data is the only folder that it writes to.
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent tokenhub \
    && install --directory --owner tokenhub --group tokenhub --mode 0700 /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8900
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s CMD ["tokenhub-proxy", "health", "http://127.0.0.1:8900"]
ENTRYPOINT ["tokenhub-proxy"]
CMD ["serve", "--listen", "0.0.0.0:8900"]
