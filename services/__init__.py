"""Set-up and local services: jars, Java, a Kafka broker, a Flink session cluster.

Nothing a submitted job needs lives here; ``jobs``, ``udfs`` and ``schemas`` do
not import this package and it does not import them. Keep this module free of
third-party imports: ``services.bootstrap`` runs before anything is installed.
"""
