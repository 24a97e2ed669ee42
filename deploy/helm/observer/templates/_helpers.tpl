{{/* The name of the chart in objects. */}}
{{- define "observer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of objects. */}}
{{- define "observer.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "observer.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "observer.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "observer.selectorLabels" -}}
app.kubernetes.io/name: {{ include "observer.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "observer.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "observer.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "observer.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "observer.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "observer.image" -}}
{{- $name := .Values.image.repository }}
{{- with .Values.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Whether the agents ask somebody about pods, for which they need a token. */}}
{{- define "observer.asks" -}}
{{- if ne .Values.kubernetes.metadata "cgroup" }}true{{ end }}
{{- end }}

{{/* The sentence that captureContent.acknowledge has to be. */}}
{{- define "observer.acknowledgement" -}}
Record prompts and answers of the selected pods
{{- end }}

{{/* Values that must not be, or not together. */}}
{{- define "observer.validate" -}}
{{- $values := .Values }}
{{- if and $values.captureContent.enabled (ne $values.captureContent.acknowledge (include "observer.acknowledgement" .)) }}
{{- fail (printf "captureContent.enabled records what people and programs say to models, and what these answer. If that is what you want, captureContent.acknowledge has to be %q" (include "observer.acknowledgement" .)) }}
{{- end }}
{{- range $values.env }}
{{- $name := upper .name }}
{{- if has $name (list "OBSERVER_CAPTURE_CONTENT" "OBSERVER_PREVIEW_CHARS") }}
{{- fail (printf "env: %s is not taken: content is captured by captureContent alone" .name) }}
{{- else if eq $name "OBSERVER_RECORD" }}
{{- fail "env: OBSERVER_RECORD is not taken: a recording holds prompts, answers and API keys as they are" }}
{{- else if eq $name "OBSERVER_CONFIG" }}
{{- fail "env: OBSERVER_CONFIG is not taken: the configuration is made of the values" }}
{{- end }}
{{- end }}
{{- range $values.extraArgs }}
{{- if or (hasPrefix "--capture" .) (hasPrefix "--preview" .) }}
{{- fail (printf "extraArgs: %s is not taken: content is captured by captureContent alone" .) }}
{{- else if hasPrefix "--rec" . }}
{{- fail (printf "extraArgs: %s is not taken: a recording holds prompts, answers and API keys as they are" .) }}
{{- else if hasPrefix "--config" . }}
{{- fail (printf "extraArgs: %s is not taken: the configuration is made of the values" .) }}
{{- end }}
{{- end }}
{{- range $values.volumeMounts }}
{{- if or (eq (trimSuffix "/" .mountPath) "/etc/observer") (hasPrefix "/etc/observer/observer.toml" .mountPath) (has (trimSuffix "/" .mountPath) (list "" "/etc")) }}
{{- fail (printf "volumeMounts: %s is not taken: it would hide the configuration, which is made of the values" .mountPath) }}
{{- end }}
{{- end }}
{{- $selection := $values.selection }}
{{- if and (not (include "observer.asks" .)) (or $selection.namespaces $selection.excludeNamespaces $selection.podSelector $values.kubernetes.podLabels) }}
{{- fail "kubernetes.metadata=cgroup: nobody says which namespace and which labels a pod has, so selection.namespaces, selection.excludeNamespaces, selection.podSelector and kubernetes.podLabels have to be empty; or choose api or kubelet" }}
{{- end }}
{{- if and (not $selection.podsOnly) (or $selection.namespaces $selection.excludeNamespaces $selection.podSelector) }}
{{- fail "selection.podsOnly=false: whoever selects by namespace or label watches pods only" }}
{{- end }}
{{- if and $values.kubernetes.kubelet.nodesProxy (ne $values.kubernetes.metadata "kubelet") }}
{{- fail "kubernetes.kubelet.nodesProxy is for kubernetes.metadata=kubelet only: it grants far more than anything else needs" }}
{{- end }}
{{- if and $values.podMonitor.enabled $values.serviceMonitor.enabled }}
{{- fail "podMonitor.enabled and serviceMonitor.enabled: everything would be scraped twice" }}
{{- end }}
{{- if and $values.serviceMonitor.enabled (not $values.service.enabled) }}
{{- fail "serviceMonitor.enabled needs service.enabled" }}
{{- end }}
{{- if not $values.export.prometheus.enabled }}
{{- if or $values.podMonitor.enabled $values.serviceMonitor.enabled }}
{{- fail "podMonitor and serviceMonitor need export.prometheus.enabled" }}
{{- end }}
{{- if not (or $values.export.otlp.endpoint $values.export.stdout $values.export.infinium.agentId) }}
{{- fail "nothing is exported: switch on export.prometheus, export.otlp, export.infinium or export.stdout" }}
{{- end }}
{{- end }}
{{- if and $values.export.infinium.agentId (not $values.export.infinium.existingSecret.name) }}
{{- fail "export.infinium.agentId needs export.infinium.existingSecret.name: the agent's secret is in no value" }}
{{- end }}
{{- $tls := $values.export.otlp.tls }}
{{- if ne (empty $tls.certKey) (empty $tls.keyKey) }}
{{- fail "export.otlp.tls: certKey and keyKey belong together" }}
{{- end }}
{{- if and $tls.existingSecret (not $tls.caKey) (not $tls.certKey) }}
{{- fail "export.otlp.tls.existingSecret: neither caKey nor certKey is given" }}
{{- end }}
{{- if and (eq $values.watch.attachBy "tracefs") (not $values.tracefs.writable) }}
{{- fail "watch.attachBy=tracefs needs tracefs.writable" }}
{{- end }}
{{- end }}

{{/* An array of TOML; JSON's strings are TOML's, too. */}}
{{- define "observer.tomlArray" -}}
[{{ range $i, $value := . }}{{ if $i }}, {{ end }}{{ $value | toJson }}{{ end }}]
{{- end }}

{{/* /etc/observer/observer.toml */}}
{{- define "observer.config" -}}
{{- $values := .Values -}}
[watch]
all = true
{{- if $values.watch.plaintext }}
plaintext = true
{{- end }}
{{- if $values.watch.allHosts }}
all_hosts = true
{{- end }}
ring_buffer = {{ int $values.watch.ringBufferMiB }}
{{- if $values.watch.javaAgent }}
java_agent = true
{{- end }}
{{- with $values.watch.attachBy }}
attach_by = {{ toJson . }}
{{- end }}

[kubernetes]
metadata = {{ toJson $values.kubernetes.metadata }}
{{- with $values.kubernetes.cluster }}
cluster = {{ toJson . }}
{{- end }}
{{- with $values.selection.namespaces }}
namespace = {{ include "observer.tomlArray" . }}
{{- end }}
{{- with $values.selection.excludeNamespaces }}
exclude_namespace = {{ include "observer.tomlArray" . }}
{{- end }}
{{- with $values.selection.podSelector }}
pod_selector = {{ toJson . }}
{{- end }}
pods_only = {{ $values.selection.podsOnly }}
{{- with $values.kubernetes.podLabels }}
pod_label = {{ include "observer.tomlArray" . }}
{{- end }}
{{- if eq $values.kubernetes.metadata "kubelet" }}
{{- if $values.kubernetes.kubelet.insecureSkipVerify }}
kubelet_insecure = true
{{- else if $values.kubernetes.kubelet.caFile }}
kubelet_ca = {{ toJson $values.kubernetes.kubelet.caFile }}
{{- end }}
{{- end }}

[records]
capture_content = {{ $values.captureContent.enabled }}
{{- if $values.captureContent.enabled }}
preview_chars = {{ int $values.captureContent.previewChars }}
{{- end }}
{{- with $values.records.providers }}
provider = {{ include "observer.tomlArray" . }}
{{- end }}
{{- if $values.credentialSalt.existingSecret }}
credential_salt_file = {{ printf "/etc/observer/salt/%s" $values.credentialSalt.key | toJson }}
{{- end }}

[trace]
idle = {{ int $values.trace.idleSeconds }}
by = {{ toJson $values.trace.by }}

[export]
format = {{ ternary "jsonl" "none" $values.export.stdout | toJson }}
{{- with $values.export.prometheus }}
{{- if .enabled }}

[export.prometheus]
listen = {{ printf "%s:%d" .address (int .port) | toJson }}
{{- if .labels }}
labels = {{ include "observer.tomlArray" .labels }}
{{- end }}
max_series = {{ int .maxSeries }}
{{- end }}
{{- end }}
{{- with $values.export.otlp }}
{{- if .endpoint }}

[export.otlp]
{{- if not (contains "$(" .endpoint) }}
endpoint = {{ toJson .endpoint }}
{{- end }}
protocol = {{ toJson .protocol }}
compression = {{ toJson .compression }}
semconv = {{ toJson .semconv }}
{{- if .tls.existingSecret }}
{{- with .tls.caKey }}
certificate = {{ printf "/etc/observer/otlp/%s" . | toJson }}
{{- end }}
{{- with .tls.certKey }}
client_certificate = {{ printf "/etc/observer/otlp/%s" . | toJson }}
{{- end }}
{{- with .tls.keyKey }}
client_key = {{ printf "/etc/observer/otlp/%s" . | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with $values.export.infinium }}
{{- if .agentId }}

[export.infinium]
agent_id = {{ toJson .agentId }}
{{- with .url }}
url = {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}
{{ end }}

{{/* How Prometheus reads an agent: by a monitor's values, and the cluster's name. */}}
{{- define "observer.endpoint" -}}
path: /metrics
interval: {{ .monitor.interval }}
scrapeTimeout: {{ .monitor.scrapeTimeout }}
relabelings:
  {{- if .monitor.relabelings }}
  {{- toYaml .monitor.relabelings | nindent 2 }}
  {{- else }}
  - sourceLabels: [__meta_kubernetes_pod_node_name]
    targetLabel: node
  {{- with .cluster }}
  - targetLabel: cluster
    replacement: {{ quote . }}
  {{- end }}
  {{- end }}
{{- with .monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
