"""Streams answers by the openai SDK, round by round, and prints what each round took as JSON."""

import argparse
import json
import sys
import time


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("--instrument", choices=["none", "infinium", "openllmetry"], default="none")
    options.add_argument("--behaviour", default="events=300")
    options.add_argument("--calls", type=int, default=10, help="a round")
    arguments = options.parse_args()
    import openai

    client = openai.OpenAI(
        base_url=f"{arguments.url}/v1",
        api_key="sk-test",
        max_retries=0,
        default_headers={"x-test-behaviour": arguments.behaviour},
    )
    client, call = instrument(arguments.instrument, client)
    print("round", flush=True)
    while sys.stdin.readline().strip():
        times, events = [], 0
        cpu = time.process_time()
        for _ in range(arguments.calls):
            begun = time.perf_counter()
            events += call(client)
            times.append(time.perf_counter() - begun)
        cpu = (time.process_time() - cpu) / arguments.calls
        times.sort()
        result = {"median_s": times[len(times) // 2], "cpu_s": cpu, "events": events}
        print(json.dumps(result), flush=True)


def stream(client) -> int:
    events = 0
    answer = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    for _ in answer:
        events += 1
    return events


def instrument(name: str, client):
    if name == "infinium":
        from infinium.integrations import TraceContext, set_trace_context, watch

        def traced(watched) -> int:
            # Without a context it records nothing.
            set_trace_context(TraceContext())
            return stream(watched)

        return watch(client), traced
    if name == "openllmetry":
        from opentelemetry import trace
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

        class Nowhere(SpanExporter):
            def export(self, spans):
                return SpanExportResult.SUCCESS

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
        trace.set_tracer_provider(provider)
        OpenAIInstrumentor().instrument()
    return client, stream


if __name__ == "__main__":
    main()
