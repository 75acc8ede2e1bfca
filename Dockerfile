# One image for every process; the arguments say which: -m services.payment, -m lab.spans, -m lab.check, -m lab.load.
# Both stages use the same base, so that its Python may be anywhere on PATH.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# where pip finds packages; each file is checked against the lock's hashes
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
COPY requirements/run.txt /tmp/run.txt
# Plots are drawn by `lab compare`, which runs where people are. The root is read-only later, so bytecode is made now,
# and is not checked against its sources.
RUN python3 -m pip install --no-cache-dir --no-compile --no-deps --only-binary :all: --require-hashes \
      --target /vendor --requirement /tmp/run.txt \
    && rm -rf /vendor/bin /vendor/plotly* /vendor/_plotly_utils /vendor/narwhals* \
    && find /vendor -type d -name tests -prune -exec rm -rf {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /vendor
# Ice has no wheel for Linux, but Debian 12's package fits any Python 3.11. It is not installed, which would bring Debian's
# Python along: its modules go beside the others, its libraries to where the loader looks. Empty: an image without Ice,
# for a base that has no apt or another Python.
ARG ICE_PACKAGES="python3-zeroc-ice=3.7.8-* libzeroc-ice3.7=3.7.8-* libmcpp0"
RUN mkdir -p /ice/usr/lib /tmp/ice && cd /tmp/ice && if [ -n "$ICE_PACKAGES" ]; then \
      apt-get update -qq && apt-get download -qq $ICE_PACKAGES && for package in *.deb; do dpkg -x "$package" . || exit 1; done \
      && mv usr/lib/python3/dist-packages/Ice usr/lib/python3/dist-packages/IcePy.*.so /vendor \
      && for folder in usr/lib/*-linux-*; do \
           mkdir "/ice/$folder" && for name in mcpp Ice IceSSL IceDiscovery IceLocatorDiscovery; do \
             cp -P "$folder"/lib"$name".so.* "/ice/$folder" || exit 1; done; done \
      && python3 -W ignore -m compileall -q --invalidation-mode unchecked-hash /vendor/Ice \
      && cp -RP /ice/. / && PYTHONPATH=/vendor python3 -W ignore -c 'import Ice'; fi
COPY lab /app/lab
COPY load /app/load
COPY services /app/services
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE}
# nothing is installed in a container, so what installs is taken out
RUN python3 -c 'import pathlib, shutil, sys; [shutil.rmtree(path, ignore_errors=True) for entry in sys.path \
      for name in ("pip", "setuptools", "wheel", "pkg_resources", "ensurepip") \
      for path in pathlib.Path(entry or ".").glob(name + "*") if path.is_dir()]' \
    && rm -f /usr/local/bin/pip* /usr/bin/pip* \
    && { command -v python >/dev/null || ln -s "$(command -v python3)" /usr/local/bin/python; } \
    && groupadd --gid 10001 antiphon \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin antiphon
COPY --from=build /ice /
COPY --from=build /vendor /vendor
COPY --from=build /app /app
# gRPC's own resolver would also ask whatever is behind the cluster's DNS for a short name, and wait for that answer
ENV PYTHONPATH=/app:/vendor PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GRPC_DNS_RESOLVER=native
WORKDIR /tmp
USER 10001:10001
# front door or REST; gRPC; admin; span store
EXPOSE 8080 50051 9464 4318
ENTRYPOINT ["python3"]
ARG VERSION=0
LABEL org.opencontainers.image.title="antiphon" \
      org.opencontainers.image.description="An observability lab: services, span store, load and check" \
      org.opencontainers.image.version="${VERSION}"
