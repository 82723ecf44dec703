# CPU:   docker build -t mnet .
# CUDA:  docker build -t mnet:cuda --build-arg TORCH=cuda .
# Run:   docker run --network host -v mnet:/data mnet               (docs/deployment.md)
FROM python:3.11-slim

# Which build of torch: `cpu`, from PyTorch's index, or `cuda`, from the default one.
ARG TORCH=cpu

WORKDIR /opt/mnet
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY mnet mnet
COPY gadgets gadgets
COPY xml_configs xml_configs
COPY docs docs
COPY vendor vendor
RUN case "$TORCH" in \
      cpu) set -- --extra-index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) set -- ;; \
      *) echo "TORCH is '$TORCH', expected cpu or cuda" >&2; exit 1 ;; \
    esac \
 && pip install --no-cache-dir "$@" -c constraints.txt ".[$TORCH]" \
 && rm -rf /opt/mnet/*
RUN useradd --system --uid 10001 mnet && install -d -o mnet -m 700 /data

USER 10001
VOLUME /data
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9008/healthz')"]
ENTRYPOINT ["mnet"]
CMD ["serve", "--status-port", "9008", "--records", "/data/records", "--noise", "/data/noise", "--log-json"]
