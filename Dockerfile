# The two commands in a container:
#   docker build -t plumbline .
#   docker run --rm -v "$PWD/runs:/plumbline/runs" plumbline               # make tiny
#   docker run --rm plumbline make test
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /plumbline
# The packages are a layer of their own, which stays while requirements.txt and constraints.txt do.
COPY Makefile requirements.txt constraints.txt ./
RUN make setup
COPY . .
CMD ["make", "tiny"]
