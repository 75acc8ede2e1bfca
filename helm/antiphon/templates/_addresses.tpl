{{/* Where things are: within the cluster, elsewhere, and as a person's browser sees them. */}}

{{/* (root, backend, port): host:port; the external address where there is one. */}}
{{- define "antiphon.address" -}}
{{- $backend := index (index . 0).Values.backends (index . 1) -}}
{{- if $backend.external -}}
{{- $backend.external -}}
{{- else -}}
{{- index . 1 }}:{{ index $backend.ports (index . 2) | int -}}
{{- end -}}
{{- end }}

{{/* (root, backend, port): the same of something that speaks HTTP, where an external address is a URL. */}}
{{- define "antiphon.url" -}}
{{- $address := include "antiphon.address" . -}}
{{- if contains "://" $address -}}{{ trimSuffix "/" $address }}{{- else -}}http://{{ $address }}{{- end -}}
{{- end }}

{{/* root: where the collector sends what Jaeger keeps. */}}
{{- define "antiphon.jaegerOtlp" -}}
{{- $jaeger := .Values.backends.jaeger -}}
{{- if and $jaeger.external (not $jaeger.externalOtlp) -}}
{{- fail "backends.jaeger.externalOtlp: host:port of an external Jaeger's OTLP (gRPC) is needed beside backends.jaeger.external" -}}
{{- end -}}
{{- $jaeger.externalOtlp | default (include "antiphon.address" (list . "jaeger" "otlp-grpc")) -}}
{{- end }}

{{/* root: AMQP, with the user that the environment has. */}}
{{- define "antiphon.rabbitmqUrl" -}}
{{- $url := urlParse (include "antiphon.url" (list . "rabbitmq" "amqp") | replace "http://" "amqp://") -}}
{{ $url.scheme }}://$(RABBITMQ_USERNAME):$(RABBITMQ_PASSWORD)@{{ $url.host }}{{ $url.path | default "/" }}{{ with $url.query }}?{{ . }}{{ end }}
{{- end }}

{{/* root: Redis, with the user that the environment has. */}}
{{- define "antiphon.redisUrl" -}}
{{- $url := urlParse (include "antiphon.url" (list . "redis" "redis") | replace "http://" "redis://") -}}
{{ $url.scheme }}://$(REDIS_USERNAME):$(REDIS_PASSWORD)@{{ $url.host }}{{ $url.path | default "/0" }}
{{- end }}

{{/* root with .Component: that service's own database. */}}
{{- define "antiphon.databaseUrl" -}}
{{- $url := urlParse (include "antiphon.url" (list . "postgres" "postgres")) -}}
postgresql+asyncpg://$(POSTGRES_USERNAME):$(POSTGRES_PASSWORD)@{{ $url.host }}/{{ .Component }}{{ with $url.query }}?{{ . }}{{ end }}
{{- end }}

{{/* root: the services that have a database, which bears their name. */}}
{{- define "antiphon.databases" -}}
{{- $names := list -}}
{{- range $name, $service := .Values.services -}}
{{- if hasPrefix "services." $service.module }}{{ $names = append $names $name }}{{ end -}}
{{- end -}}
{{- join "," $names -}}
{{- end }}

{{/* (root, name of an access): the address of that for a browser. With ClusterIP it is that of `kubectl port-forward`. */}}
{{- define "antiphon.seenAt" -}}
{{- $access := (index . 0).Values.access -}}
http://{{ $access.host }}:{{ index $access.nodePorts (index . 1) | int }}
{{- end }}
