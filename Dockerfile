# docker build -t resnet . && docker run --rm -v "$PWD/runs:/runs" resnet train --config=digits --workdir=/runs/digits
FROM python:3.12-slim
# The compiler of the kernels; without it XLA's slower ones serve.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /resnet
RUN pip install --no-cache-dir -c /resnet/constraints.txt /resnet
ENTRYPOINT ["resnet"]
