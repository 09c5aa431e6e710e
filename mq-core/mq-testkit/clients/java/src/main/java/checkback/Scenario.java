package checkback;

/** One claim about the broker; it throws when the claim does not hold. */
@FunctionalInterface
interface Scenario {
    void run(Stage stage) throws Exception;
}
