# All programs of eventspine in one small image without a shell: static binaries, an ordinary user,
# nothing written outside /var/lib/eventspine. `docker build --build-arg VERSION=1.2.3 .` stamps a version.
ARG GO_VERSION=1.26.8
FROM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY cmd cmd
COPY internal internal
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X eventspine/internal/run.version=${VERSION}" -o /out/usr/bin/ ./cmd/...
# A volume takes the owner of the directory it is first mounted on.
RUN mkdir -p /out/var/lib/eventspine/api /out/var/lib/eventspine/indexer /out/var/lib/eventspine/proxy /out/etc/ssl/certs /out/tmp && \
    cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ && \
    echo 'eventspine:x:65532:65532::/var/lib/eventspine:/sbin/nologin' >/out/etc/passwd && \
    echo 'eventspine:x:65532:' >/out/etc/group && \
    chown -R 65532:65532 /out/var/lib/eventspine && chmod 1777 /out/tmp

FROM scratch
COPY --from=build /out /
ENV PATH=/usr/bin
USER 65532:65532
WORKDIR /var/lib/eventspine
CMD ["eventspine", "--help"]
