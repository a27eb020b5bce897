# The cloud's half: ONNX Runtime behind the Open Inference Protocol, without PyTorch.
#
#   docker build -t splitveil-serve .
#   splitveil bundle part BUNDLE --side cloud --out CLOUD
#   docker run --read-only --tmpfs /tmp -p 8000:8000 -v "$PWD/CLOUD:/bundle:ro" splitveil-serve --threads 2 --slots 1
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
# splitveil itself needs PyTorch, its server does not: the package goes in alone, and beside it what the server imports
RUN python -m venv /opt/splitveil \
 && /opt/splitveil/bin/pip install --no-cache-dir --no-deps . \
 && /opt/splitveil/bin/pip install --no-cache-dir -c constraints.txt \
      numpy typer rich onnxruntime fastapi uvicorn httptools uvloop prometheus-client cryptography

FROM python:3.11-slim
COPY --from=build /opt/splitveil /opt/splitveil
ENV PATH=/opt/splitveil/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/live', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["splitveil", "serve", "/bundle", "--host", "0.0.0.0"]
