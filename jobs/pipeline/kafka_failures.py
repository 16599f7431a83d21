"""What Kafka's client throws in a job, and one line for each that says what to do."""

from __future__ import annotations

_PROPERTIES = "sources.*.properties"

#: What comes after it is a cause of it, and not of TLS with another store or service.
_TLS = r"SslAuthenticationException(?:.|\n)*?"

#: Patterns in the order of precedence, and the line for each; `{found}` is the text that matched.
KNOWN: tuple[tuple[str, str], ...] = (
    (
        _TLS + r"Certificate(?:Expired|NotYetValid)Exception: ([^\n]+)",
        "the certificate of a Kafka broker has expired or is not valid yet: {found}. Renew it on "
        "the broker, or set the clocks right",
    ),
    (
        _TLS + r"PKIX path building failed",
        "the certificate of a Kafka broker is not signed by an authority in the trust store: put "
        f"the certificate of the brokers' authority where ssl.truststore.* in {_PROPERTIES} points",
    ),
    (
        _TLS + r"(No subject alternative [^\n]+|No name matching [^\n]+)",
        "the certificate of a Kafka broker is for another host: {found}. Use a name that is in it, "
        "in bootstrap_servers and in the brokers' advertised.listeners, or have one made that has "
        "this name",
    ),
    (
        _TLS + r"Received fatal alert: (\w*certificate\w*|unknown_ca|handshake_failure)",
        "the Kafka brokers do not accept the client's certificate, or there is none: {found}. Look "
        f"at the file in ssl.keystore.location of {_PROPERTIES}: has it expired, and do the "
        "brokers trust its authority?",
    ),
    (
        _TLS + r"(?:Received fatal alert: (\w+)|(Unsupported or unrecognized SSL message))",
        "the TLS handshake with the Kafka brokers fails: {found}. Set security.protocol and ssl.* "
        f"in {_PROPERTIES} as the brokers' listener has them",
    ),
    (
        r"PBES2 SecretKeyFactory not available",
        f"this Java cannot open the encrypted key in ssl.keystore.* of {_PROPERTIES}: encrypt it "
        "with `openssl pkcs8 -topk8 -v1 PBE-SHA1-3DES`, or use a key without a password",
    ),
    (
        r"(Failed to load (?:PEM )?SSL keystore [^\n]+|Invalid PEM keystore configs)",
        f"Kafka's client cannot read a store of {_PROPERTIES}: {{found}}. Check location, type and "
        "passwords of ssl.truststore.* and ssl.keystore.*; the file must be on every machine of "
        "the cluster",
    ),
    (
        r"allowed\.urls",
        "Kafka's client may not fetch a token from sasl.oauthbearer.token.endpoint.url: name the "
        "URL in a Java system property, see docs/kafka.md, OAUTHBEARER",
    ),
    (
        r"SaslAuthenticationException: ([^\n]+)",
        "the Kafka brokers refuse the login: {found}. Check user name, password and mechanism in "
        f"{_PROPERTIES}",
    ),
    (
        r"SslAuthenticationException: ([^\n]+)",
        f"the TLS handshake with the Kafka brokers fails: {{found}}. Check ssl.* in {_PROPERTIES}",
    ),
    (
        r"No LoginModule found for ([\w.$]+)|unable to find LoginModule class: ([\w.$]+)",
        f"{_PROPERTIES}: sasl.jaas.config names a login module that is not on the class path:"
        " {found}",
    ),
    (
        r"ConfigException: ([^\n]+)",
        f"{_PROPERTIES}: Kafka's client refuses a property: {{found}}",
    ),
    (
        r"TopicAuthorizationException: ([^\n]+)",
        f"the user of {_PROPERTIES} may not read a topic: {{found}}. Allow it: kafka-acls --add "
        "--allow-principal User:NAME --operation Read --operation Describe --topic TOPIC",
    ),
    (
        r"GroupAuthorizationException: ([^\n]+)",
        f"the user of {_PROPERTIES} may not use group_id: {{found}}. Allow it: kafka-acls --add "
        "--allow-principal User:NAME --operation Read --group GROUP",
    ),
    (
        r"ClusterAuthorizationException: ([^\n]+)",
        f"the user of {_PROPERTIES} lacks a right in Kafka: {{found}}",
    ),
    (
        r"NoOffsetForPartitionException: ([^\n]+)",
        'start = "committed", but the group has committed no offset: {found}. Correct group_id, or '
        'say where to begin then: properties."auto.offset.reset" = "earliest" or "latest"',
    ),
    (
        r"OffsetOutOfRangeException: ([^\n]+)|Fetch position [^\n]+ is out of range[^\n]*",
        "records that were still to be read have been deleted by Kafka's retention: {found}. Raise "
        "retention.ms of the topic, and start anew",
    ),
    (r"UnknownTopicOrPartition[^\n]*", "a Kafka topic is not there: {found}"),
    (
        r"TimeoutException: Timed out waiting for a node assignment[^\n]*|DisconnectException"
        r"|TimeoutException: (?:Timeout of \d+ms expired|Failed to get offsets)[^\n]*",
        "the Kafka brokers do not answer: {found}. Check that they are up, and that "
        "bootstrap_servers and security.protocol are those of their listener",
    ),
)
