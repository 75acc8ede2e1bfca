{{/* Environments. They are maps of name -> text, or name -> {secretKey}: one that is said later replaces. */}}

{{/* (context, map): the list that a container takes. What comes out of the Secret stands first: only what stands
     before a variable can be used in it as $(NAME). */}}
{{- define "antiphon.env" -}}
{{- $context := index . 0 -}}
{{- range $name, $value := index . 1 }}
{{- if kindIs "map" $value }}
{{- if not (or $context.Values.secret.existing (has $value.secretKey (include "antiphon.secretKeys" . | splitList ","))) }}
{{- fail (printf "%s: %s: the generated Secret has no key %s; it has %s" $context.Component $name $value.secretKey (include "antiphon.secretKeys" .)) }}
{{- end }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ include "antiphon.secretName" $context }}, key: {{ $value.secretKey }}}}
{{- end }}
{{- end }}
{{- range $name, $value := index . 1 }}
{{- if not (kindIs "map" $value) }}
- name: {{ $name }}
  value: {{ include "antiphon.text" (list $context $value) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* (context, value): a value as text; large numbers without an exponent, texts through the template language. */}}
{{- define "antiphon.text" -}}
{{- $value := index . 1 -}}
{{- if kindIs "float64" $value -}}{{ int64 $value }}
{{- else if kindIs "string" $value -}}{{ tpl $value (index . 0) }}
{{- else -}}{{ $value }}
{{- end -}}
{{- end }}


{{/* (root, service): the whole environment of one of our processes, as JSON. What is in services.* takes part in the
     conversations, and is told of everyone else. */}}
{{- define "antiphon.serviceEnv" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $service := index $root.Values.services $name -}}
{{- $env := dict "HOME" "/tmp" -}}
{{- if hasPrefix "services." $service.module -}}
{{- $all := include "antiphon.transports" $root | fromJson -}}
{{- $running := $all -}}
{{- $foreign := list -}}
{{- if $service.transports -}}
{{- $running = dict -}}
{{- range $transport, $its := $all -}}
{{- if has $transport $service.transports }}{{ $_ := set $running $transport $its }}
{{- else }}{{ $foreign = append $foreign ($its.backend | default "") }}{{ end -}}
{{- end -}}
{{- range $running }}{{ $foreign = without $foreign (.backend | default "") }}{{ end -}}
{{- end -}}
{{- $listen := dict -}}
{{- range $port, $number := $service.listen }}{{ $_ := set $listen $port (int $number) }}{{ end -}}
{{- $peers := dict -}}
{{- range $transport, $its := $running -}}
{{- if and $its.port $service.rpc }}{{ $_ := set $listen $transport (int $its.port) }}{{ end -}}
{{- end -}}
{{- range $peer, $entry := $root.Values.services -}}
{{- if $entry.rpc -}}
{{- $addresses := dict -}}
{{- range $transport, $its := $running -}}
{{- if $its.port -}}
{{- $scheme := ternary "https" $its.scheme (and $root.Values.tls.enabled (eq ($its.scheme | default "") "http")) -}}
{{- $_ := set $addresses $transport (printf "%s%s:%d" (ternary (printf "%s://" $scheme) "" (not (empty $scheme))) $peer (int $its.port)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $peers $peer $addresses -}}
{{- end -}}
{{- end -}}
{{- $absent := dict -}}
{{- range $transport, $its := $root.Values.transports -}}
{{- if not $its.enabled -}}
{{- $_ := set $absent $transport (printf "it is switched off here (transports.%s.enabled)" $transport) -}}
{{- else if not (hasKey $all $transport) -}}
{{- $_ := set $absent $transport (printf "there is no %s here (backends.%s.enabled)" $its.backend $its.backend) -}}
{{- end -}}
{{- end -}}
{{- $env = merge $env (dict
      "LAB_HOST" "0.0.0.0"
      "LAB_ADMIN_PORT" (int $service.ports.admin | toString)
      "LAB_LISTEN" (toJson $listen)
      "LAB_PEERS" (toJson $peers)
      "LAB_TRANSPORTS" (keys $running | sortAlpha | join ",")
      "LAB_ABSENT" (toJson $absent)
      "LAB_ORDERS_ADMIN_URL" (printf "http://orders:%d" (int $root.Values.services.orders.ports.admin))
      "LAB_SETTINGS_TOKEN" (dict "secretKey" "settings-token")) -}}
{{- if $root.Values.tls.enabled -}}
{{- range $what, $file := dict "CERTIFICATE" "tls.crt" "KEY" "tls.key" "CA" "ca.crt" -}}
{{- $_ := set $env (printf "LAB_TLS_%s" $what) (printf "/etc/antiphon/tls/%s" $file) -}}
{{- end -}}
{{- end -}}
{{- if not (include "antiphon.used" (list $root "postgres")) -}}
{{- fail "backends.postgres: the services need a database: set enabled, or external" -}}
{{- end -}}
{{- range $backend, $its := $root.Values.backends -}}
{{- if and (include "antiphon.used" (list $root $backend)) (not (has $backend $foreign)) }}{{ $env = mergeOverwrite $env ($its.clientEnv | default dict) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson (mergeOverwrite $env ($root.Values.env | default dict) ($service.env | default dict)) -}}
{{- end }}
