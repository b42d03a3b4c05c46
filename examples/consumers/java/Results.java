import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * A consumer of results in Java: the record of each job, once for each that its group has not committed.
 *
 * <pre>
 * mvn -q dependency:build-classpath -Dmdep.outputFile=classpath
 * KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092 java -cp $(cat classpath) Results.java billing
 * </pre>
 *
 * The argument is the consumer group. BACKSTOP_TOPIC_PREFIX is `backstop.` unless it is set.
 */
public class Results {
    public static void main(String[] arguments) {
        var environment = System.getenv();
        var topic = Optional.ofNullable(environment.get("BACKSTOP_TOPIC_PREFIX")).orElse("backstop.") + "results";
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", environment.get("KAFKA_BOOTSTRAP_SERVERS"),
            "group.id", arguments[0],
            "isolation.level", "read_committed", // older results were written in transactions
            "auto.offset.reset", "earliest",
            "enable.auto.commit", false);
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            while (true) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    // In a transaction of yours, with the record's key as its unique key. The value is JSON:
                    // docs/asyncapi.json describes it.
                    System.out.println(record.key() + " " + record.value());
                }
                consumer.commitSync(); // after the work: a crash repeats it
            }
        }
    }
}
