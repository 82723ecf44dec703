# CPU:   docker build -t mnet .
# CUDA:  docker build -t mnet:cuda --build-arg TORCH=https://pypi.org/simple .
# Run:   docker run --network host -v mnet:/data mnet               (docs/deployment.md)
FROM python:3.11-slim

# Where torch comes from: PyTorch's index of builds for the CPU, or PyPI, whose build is for CUDA.
ARG TORCH=https://download.pytorch.org/whl/cpu

WORKDIR /opt/mnet
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY mnet mnet
COPY gadgets gadgets
COPY xml_configs xml_configs
COPY docs docs
COPY vendor vendor
RUN pip install --no-cache-dir --extra-index-url ${TORCH} -c constraints.txt . \
 && rm -rf /opt/mnet/*
RUN useradd --system --uid 10001 mnet && install -d -o mnet -m 700 /data

USER 10001
VOLUME /data
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9008/healthz')"]
ENTRYPOINT ["mnet"]
CMD ["serve", "--status-port", "9008", "--records", "/data/records", "--noise", "/data/noise", "--log-json"]
