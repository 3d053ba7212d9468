# syntax=docker/dockerfile:1
FROM python:3.12-slim AS build
WORKDIR /source
RUN python -m venv /opt/fhirserver
COPY pyproject.toml README.md LICENSE ./
COPY fhirserver fhirserver
COPY adapters adapters
COPY ingest ingest
COPY fixtures fixtures
RUN /opt/fhirserver/bin/pip install --no-cache-dir .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/fhirserver --create-home fhirserver
COPY --from=build /opt/fhirserver /opt/fhirserver
ENV PATH=/opt/fhirserver/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FHIRSERVER_HOST=0.0.0.0 \
    FHIRSERVER_PORT=8000
# FHIRSERVER_STORE is not set, so that FHIRSERVER_STORE_FILE can be: without both, the store is data/fhir.db below.
USER fhirserver
WORKDIR /var/lib/fhirserver
VOLUME /var/lib/fhirserver
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, ssl, urllib.request; tls = bool(os.environ.get('FHIRSERVER_TLS_CERTIFICATE')); urllib.request.urlopen(f\"http{'s' * tls}://127.0.0.1:{os.environ['FHIRSERVER_PORT']}/health/live\", timeout=2, context=ssl._create_unverified_context() if tls else None)"]
ENTRYPOINT ["fhirserver"]
CMD ["serve"]
