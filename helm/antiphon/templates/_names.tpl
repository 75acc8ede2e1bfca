{{/* What everything is called: labels, images, and whether a component is there. */}}

{{/* (root, name): what a pod is found by. It must not change with a version: a Deployment's selector is for good. */}}
{{- define "antiphon.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{/* (root, name): a pod's labels. No version among them, so that a new chart restarts only what it changes. */}}
{{- define "antiphon.podLabels" -}}
{{ include "antiphon.selector" . }}
app.kubernetes.io/part-of: antiphon
app.kubernetes.io/component: {{ if hasKey (index . 0).Values.backends (index . 1) }}backend{{ else }}service{{ end }}
{{- end }}

{{/* (root, name): an object's labels. */}}
{{- define "antiphon.labels" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{ include "antiphon.podLabels" . }}
app.kubernetes.io/version: {{ include "antiphon.tag" (list $root $name) | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end }}

{{/* (root, name): the tag of a component's image; ours for what is no backend. */}}
{{- define "antiphon.tag" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- if hasKey $root.Values.backends $name -}}
{{- $image := (index $root.Values.backends $name).image | default dict -}}
{{- $image.tag | default (dig $name "version" "" ($root.Files.Get "files/versions.yaml" | fromYaml)) -}}
{{- else -}}
{{- $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- end -}}
{{- end }}

{{/* (root, name): a component's image, behind the registry if there is one. */}}
{{- define "antiphon.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $repository := $root.Values.image.repository -}}
{{- if hasKey $root.Values.backends $name -}}
{{- $image := (index $root.Values.backends $name).image | default dict -}}
{{- $repository = $image.repository | default (dig $name "image" "" ($root.Files.Get "files/versions.yaml" | fromYaml)) -}}
{{- end -}}
{{- $tag := include "antiphon.tag" . -}}
{{- if not (and $repository $tag) -}}
{{- fail (printf "backends.%s.image: repository and tag are needed, as files/versions.yaml does not know %s" $name $name) -}}
{{- end -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $repository }}:{{ $tag }}
{{- end }}

{{/* (root, backend): "true" where the lab uses it, here or elsewhere. */}}
{{- define "antiphon.used" -}}
{{- with index (index . 0).Values.backends (index . 1) -}}
{{- if or .enabled .external -}}true{{- end -}}
{{- end -}}
{{- end }}

{{/* (root, name): "true" where the chart runs it. A service with a use for some transports only needs one of them. */}}
{{- define "antiphon.runs" -}}
{{- $values := (index . 0).Values -}}
{{- $name := index . 1 -}}
{{- if hasKey $values.services $name -}}
{{- $wanted := (index $values.services $name).transports -}}
{{- $running := include "antiphon.transports" (index . 0) | fromJson -}}
{{- $spoken := dict -}}
{{- range $transport := $wanted -}}
{{- if hasKey $running $transport }}{{ $_ := set $spoken $transport true }}
{{- else if not (hasKey $values.transports $transport) -}}
{{- fail (printf "services.%s.transports: there is no %s in transports" $name $transport) }}{{ end -}}
{{- end -}}
{{- if or (not $wanted) $spoken -}}true{{- end -}}
{{- else -}}
{{- with index $values.backends $name -}}
{{- if and .enabled (not .external) -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* root: the transports that run, as JSON: name -> entry. */}}
{{- define "antiphon.transports" -}}
{{- $root := . -}}
{{- $running := dict -}}
{{- range $name, $entry := .Values.transports -}}
{{- if and $entry.backend (not (hasKey $root.Values.backends $entry.backend)) -}}
{{- fail (printf "transports.%s.backend: there is no %s in backends" $name $entry.backend) -}}
{{- end -}}
{{- if and $entry.enabled (or (not $entry.backend) (include "antiphon.used" (list $root $entry.backend))) -}}
{{- $_ := set $running $name $entry -}}
{{- end -}}
{{- end -}}
{{- toJson $running -}}
{{- end }}

{{/* (root, name): a component's ports by name, as JSON, those of the synchronous transports included. */}}
{{- define "antiphon.ports" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $entry := index (merge (dict) $root.Values.services $root.Values.backends) $name -}}
{{- $ports := dict -}}
{{- range $port, $number := $entry.ports }}{{ $_ := set $ports $port (int $number) }}{{ end -}}
{{- if $entry.rpc -}}
{{- range $transport, $its := include "antiphon.transports" $root | fromJson -}}
{{- if $its.port }}{{ $_ := set $ports (replace "_" "-" $transport) (int $its.port) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson $ports -}}
{{- end }}

{{/* root: the name of the Secret, made here or brought along. */}}
{{- define "antiphon.secretName" -}}
{{- .Values.secret.existing | default "antiphon" -}}
{{- end }}

{{/* The keys of the generated Secret. */}}
{{- define "antiphon.secretKeys" -}}
settings-token,rabbitmq-username,rabbitmq-password,rabbitmq-erlang-cookie,postgres-username,postgres-password,redis-username,redis-password,grafana-password
{{- end }}
