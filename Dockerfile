# The page of `banet app` on CPUs:
#     docker build -t banet . && docker run --rm -p 127.0.0.1:7860:7860 banet
FROM python:3.11-slim

# Nothing runs as root, and the code cannot be changed by the user that serves it.
RUN useradd --create-home --shell /usr/sbin/nologin banet
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY banet ./banet
# For the CPU build of PyTorch, which is much smaller, give its index: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint constraints.txt '.[app]' && rm -rf /src

USER banet
WORKDIR /home/banet
EXPOSE 7860
# Others reach the container only where its port is published; the page asks for no password.
ENTRYPOINT ["banet", "app", "--host", "0.0.0.0", "--port", "7860"]
CMD ["--weights", "scenes"]
