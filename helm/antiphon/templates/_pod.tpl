{{/* The one pod template. It passes the restricted Pod Security level: no root, no capability, nothing writable but
     what is listed.
     Takes: context (root with .Component), image, uid, gid, command, args, env, ports, probes, resources, writable, config (JSON
     of path -> text), data, claim, prepare, afterStart, stopSeconds, dashboards, restartPolicy, pullPolicy */}}
{{- define "antiphon.pod" -}}
{{- $context := .context -}}
{{- $name := $context.Component -}}
{{- $files := .files | default dict -}}
metadata:
  labels: {{- include "antiphon.podLabels" (list $context $name) | nindent 4 }}
  {{- if $files }}
  annotations:
    checksum/config: {{ $files | toJson | sha256sum }}
  {{- end }}
spec:
  enableServiceLinks: false
  automountServiceAccountToken: false
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .stopSeconds | default 30 }}
  {{- with $context.Values.image.pullSecrets }}
  imagePullSecrets: {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ .uid | int }}
    runAsGroup: {{ .gid | default .uid | int }}
    fsGroup: {{ .gid | default .uid | int }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- if .prepare }}
  initContainers:
    - name: prepare
      command: {{- toYaml .prepare | nindent 8 }}
      {{- include "antiphon.container" . | nindent 6 }}
  {{- end }}
  containers:
    - name: {{ $name }}
      {{- with .command }}
      command: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .args }}
      args:
        {{- range . }}
        - {{ tpl . $context | quote }}
        {{- end }}
      {{- end }}
      {{- with .ports }}
      ports:
        {{- range $port, $number := . }}
        - {name: {{ $port }}, containerPort: {{ $number }}}
        {{- end }}
      {{- end }}
      {{- range $kind, $probe := .probes }}
      {{ $kind }}Probe: {{- toYaml $probe | nindent 8 }}
      {{- end }}
      {{- with .afterStart }}
      lifecycle: {postStart: {exec: {command: {{ toJson . }}}}}
      {{- end }}
      {{- include "antiphon.container" . | nindent 6 }}
  volumes:
    {{- range .writable }}
    - {name: {{ include "antiphon.volumeName" . }}, emptyDir: {}}
    {{- end }}
    {{- if $files }}
    - {name: config, configMap: {name: {{ $name }}}}
    {{- end }}
    {{- if and .data (not .claimed) }}
    {{- if $context.Values.storage.enabled }}
    - {name: data, persistentVolumeClaim: {claimName: data-{{ $name }}}}
    {{- else }}
    - {name: data, emptyDir: {}}
    {{- end }}
    {{- end }}
    {{- with .volumes }}{{ . | nindent 4 }}{{ end }}
{{- end }}

{{/* What the container and the one that prepares for it have in common. */}}
{{- define "antiphon.container" -}}
image: {{ include "antiphon.image" (list .context .context.Component) }}
imagePullPolicy: {{ .context.Values.image.pullPolicy }}
{{- with .env }}
env: {{- include "antiphon.env" (list $.context .) | nindent 2 }}
{{- end }}
resources: {{- toYaml .resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  {{- range .writable }}
  - {name: {{ include "antiphon.volumeName" . }}, mountPath: {{ . }}}
  {{- end }}
  {{- range $path, $text := .files }}
  - {name: config, mountPath: {{ $path }}, subPath: {{ include "antiphon.fileName" $path }}, readOnly: true}
  {{- end }}
  {{- with .data }}
  - {name: data, mountPath: {{ .path }}}
  {{- end }}
  {{- with .mounts }}{{ . | nindent 2 }}{{ end }}
{{- end }}

{{- define "antiphon.volumeName" -}}
{{- trimPrefix "/" . | replace "/" "-" | replace "." "-" -}}
{{- end }}

{{- define "antiphon.fileName" -}}
{{- trimPrefix "/" . | replace "/" "." -}}
{{- end }}
