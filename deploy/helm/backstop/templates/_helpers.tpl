{{- define "backstop.labels" -}}
app.kubernetes.io/name: backstop
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "backstop.name" -}}
{{- printf "%s-%s" (trunc 40 .root.Release.Name | trimSuffix "-") .process -}}
{{- end }}

{{- define "backstop.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{/* Values that contradict each other end the rendering with a sentence. */}}
{{- define "backstop.check" -}}
{{- if not .Values.kafka.bootstrapServers }}{{ fail "kafka.bootstrapServers is empty: name the brokers, HOST:PORT, comma-separated" }}{{ end -}}
{{- if not .Values.secrets.name }}{{ fail "secrets.name is empty: name the Secret with the keys of docs/kubernetes.md" }}{{ end -}}
{{- if not .Values.blobs }}{{ fail "blobs is empty: pods share no folder, so name a bucket (s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX)" }}{{ end -}}
{{- if gt (int .Values.worker.replicas) (int .Values.kafka.partitions) }}{{ fail (printf "worker.replicas is %d, and kafka.partitions is %d: a worker beyond the number of partitions has nothing to do" (int .Values.worker.replicas) (int .Values.kafka.partitions)) }}{{ end -}}
{{- if gt (int .Values.kafka.minInsyncReplicas) (int .Values.kafka.replicationFactor) }}{{ fail (printf "kafka.minInsyncReplicas is %d, and kafka.replicationFactor is %d: no record could ever be acknowledged" (int .Values.kafka.minInsyncReplicas) (int .Values.kafka.replicationFactor)) }}{{ end -}}
{{- if and (hasPrefix "SASL" .Values.kafka.securityProtocol) (has .Values.kafka.saslMechanism (list "PLAIN" "SCRAM-SHA-256" "SCRAM-SHA-512")) }}
{{- if not (and .Values.kafka.username .Values.secrets.entries.kafkaPassword) }}{{ fail (printf "kafka.saslMechanism %s needs kafka.username and secrets.entries.kafkaPassword" .Values.kafka.saslMechanism) }}{{ end -}}
{{- end -}}
{{- if and .Values.outgoing.enabled (not .Values.secrets.entries.outgoingKeys) }}{{ fail "outgoing.enabled needs secrets.entries.outgoingKeys" }}{{ end -}}
{{- if and .Values.serve.ingress.enabled (not .Values.serve.ingress.host) }}{{ fail "serve.ingress.enabled needs serve.ingress.host" }}{{ end -}}
{{- end }}

{{- define "backstop.file" -}}
{{- if .entry }}
- {name: {{ .variable }}, value: {{ printf "/secrets/%s" .entry | quote }}}
{{- end }}
{{- end }}

{{/* Environment of every process. Secrets are files: NAME_FILE is the path of one. */}}
{{- define "backstop.environment" -}}
{{- $entries := .root.Values.secrets.entries -}}
- {name: KAFKA_BOOTSTRAP_SERVERS, value: {{ .root.Values.kafka.bootstrapServers | quote }}}
- {name: BACKSTOP_KAFKA_SECURITY_PROTOCOL, value: {{ .root.Values.kafka.securityProtocol }}}
{{- if hasPrefix "SASL" .root.Values.kafka.securityProtocol }}
- {name: BACKSTOP_KAFKA_SASL_MECHANISM, value: {{ .root.Values.kafka.saslMechanism }}}
{{- end }}
{{- with .root.Values.kafka.username }}
- {name: BACKSTOP_KAFKA_SASL_USERNAME, value: {{ . | quote }}}
{{- end }}
{{- include "backstop.file" (dict "variable" "BACKSTOP_KAFKA_SASL_PASSWORD_FILE" "entry" $entries.kafkaPassword) }}
{{- include "backstop.file" (dict "variable" "BACKSTOP_KAFKA_SSL_CAFILE" "entry" $entries.kafkaCa) }}
{{- include "backstop.file" (dict "variable" "BACKSTOP_KAFKA_SSL_CERTFILE" "entry" $entries.kafkaCertificate) }}
{{- include "backstop.file" (dict "variable" "BACKSTOP_KAFKA_SSL_KEYFILE" "entry" $entries.kafkaKey) }}
{{- include "backstop.file" (dict "variable" "BACKSTOP_KAFKA_OAUTH_CLIENT_SECRET_FILE" "entry" $entries.kafkaOauthClientSecret) }}
- {name: BACKSTOP_TOPIC_PREFIX, value: {{ .root.Values.kafka.topicPrefix | quote }}}
- {name: BACKSTOP_PARTITIONS, value: {{ .root.Values.kafka.partitions | quote }}}
- {name: BACKSTOP_REPLICATION_FACTOR, value: {{ .root.Values.kafka.replicationFactor | quote }}}
- {name: BACKSTOP_MIN_INSYNC_REPLICAS, value: {{ .root.Values.kafka.minInsyncReplicas | quote }}}
- {name: BACKSTOP_BLOBS, value: {{ .root.Values.blobs | quote }}}
{{- include "backstop.file" (dict "variable" "BACKSTOP_BLOBS_SECRET_KEY_FILE" "entry" $entries.blobsSecretKey) }}
- {name: BACKSTOP_LOG_FORMAT, value: json}
- {name: BACKSTOP_HEALTH_HOST, value: "0.0.0.0"}
{{- range $name, $value := merge (dict) (default (dict) .settings) .root.Values.settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "backstop.probes" -}}
startupProbe:
  httpGet: {path: /startupz, port: health}
  periodSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /livez, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: health}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- define "backstop.container" -}}
image: {{ include "backstop.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "backstop.pod" -}}
serviceAccountName: {{ include "backstop.name" (dict "root" . "process" "backstop") }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A process sees the entries that it needs, and no others. 288 is 0440. */}}
{{- define "backstop.volumes" -}}
- name: secrets
  secret:
    secretName: {{ .root.Values.secrets.name }}
    defaultMode: 288
    items:
      {{- range concat .needs (list "kafkaPassword" "kafkaCa" "kafkaCertificate" "kafkaKey" "kafkaOauthClientSecret" "blobsSecretKey") }}
      {{- with get $.root.Values.secrets.entries . }}
      - {key: {{ . | quote }}, path: {{ . | quote }}}
      {{- end }}
      {{- end }}
- name: tmp
  emptyDir: {}
{{- end }}

{{- define "backstop.mounts" -}}
- {name: secrets, mountPath: /secrets, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "backstop.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "backstop.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .process }}
{{- end }}

{{/* serve, projection and outgoing: no state of their own. */}}
{{- define "backstop.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "backstop.name" . }}
  labels: {{ include "backstop.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .process }}
spec:
  replicas: {{ .of.replicas }}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels: {{ include "backstop.labels" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .process }}
  template:
    metadata:
      labels: {{ include "backstop.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .process }}
      {{- with .root.Values.podAnnotations }}
      annotations: {{ toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "backstop.pod" .root | nindent 6 }}
      {{- include "backstop.spread" . | nindent 6 }}
      terminationGracePeriodSeconds: 60
      containers:
        - name: {{ .process }}
          {{- include "backstop.container" .root | nindent 10 }}
          command: [backstop, {{ .process }}]
          env:
            {{- include "backstop.environment" (dict "root" .root "settings" .of.settings) | nindent 12 }}
            {{- .environment | nindent 12 }}
          ports:
            {{- .ports | nindent 12 }}
          {{- include "backstop.probes" .root | nindent 10 }}
          resources: {{ toYaml .of.resources | nindent 12 }}
          volumeMounts:
            {{- include "backstop.mounts" .root | nindent 12 }}
            - {name: data, mountPath: /data}
      volumes:
        {{- include "backstop.volumes" . | nindent 8 }}
        - name: data
          emptyDir: {}
{{- end }}
