# The server of examples/serve.py (docs/serving.md), for CPUs or NVIDIA GPUs:
#
#   docker build -t ifuvit .
#   docker run --rm -p 8000:8000 ifuvit
#
#   docker build -t ifuvit:cuda --build-arg DEVICE=cuda .
#   docker run --rm -p 8000:8000 --gpus all ifuvit:cuda
#
# Other commands: docker run --rm -v "$PWD:/data" -w /data --entrypoint ifuvit ifuvit generate "three sheep" --out images
FROM python:3.11-slim

# cpu: PyTorch's build 2.x+cpu, which pip takes for newer than the same version of PyPI. cuda: the build of PyPI, which brings CUDA along; the host needs the driver and the
# NVIDIA container toolkit alone.
ARG DEVICE=cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /app
COPY constraints.txt ./
# A layer of its own: it is the largest, and stays when the source changes.
RUN case "$DEVICE" in \
        cpu) pip install -c constraints.txt torch --extra-index-url https://download.pytorch.org/whl/cpu ;; \
        cuda) pip install -c constraints.txt torch ;; \
        *) echo "DEVICE=$DEVICE: give cpu or cuda" >&2; exit 2 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install -c constraints.txt '.[serve]'
COPY examples/serve.py examples/

RUN useradd --create-home ifuvit
USER ifuvit

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python", "examples/serve.py", "--host", "0.0.0.0"]
