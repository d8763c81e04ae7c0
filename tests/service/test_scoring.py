"""``POST /score`` against a real server: the answer of the contract, and agreement with the offline detector."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle import Bundle
from models.detector import Detector
from models.encoder import Device
from models.vocabulary import Domain, SectionKey
from tests.service.bundles import FAN_0, PUMP, sound, wav
from tests.service.servers import Server

FIELDS = {"machine_type": "fan", "section": "00", "domain": "source"}


def score(server: Server, audio: bytes, **fields: str) -> dict[str, Any]:
    """A multipart request that must succeed."""
    answer = server.client.post("/score", data={**FIELDS, **fields}, files={"audio": ("clip.wav", audio)})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


@pytest.fixture(scope="module")
def detector(bundle: Bundle) -> Detector:
    return Detector(bundle, device=Device.CPU, threads=1)


@pytest.mark.parametrize("fault", [False, True], ids=["normal", "faulty"])
@pytest.mark.parametrize(("key", "domain"), [(FAN_0, "source"), (FAN_0, "target"), (PUMP, "source")], ids=str)
def test_http_and_offline_scores_agree(
    server: Server, detector: Detector, key: SectionKey, fault: bool, domain: str
) -> None:
    """To 1e-4 relative, in every figure, with the same decision."""
    audio = wav(sound(key, 200, fault=fault, target=domain == "target"))
    answer = score(server, audio, machine_type=key.machine_type, section=key.section, domain=domain)
    offline = detector.score(detector.decode(audio), key.machine_type, key.section, Domain(domain))
    assert answer["decision"] == offline.decision
    for name in ("anomaly_score", "decision_score", "threshold", "p_value", "deviation"):
        assert answer[name] == pytest.approx(getattr(offline, name), rel=1e-4)
    for name, term in offline.systems["adacos_resnet"].terms.items():
        expected = None if term is None else pytest.approx(term, rel=1e-4)
        assert answer["systems"]["adacos_resnet"]["terms"][name] == expected
    assert answer["target_version"] == (0 if domain == "target" else None)
    assert answer["target_state"] == ("current" if domain == "target" else None)


def test_the_answer_has_the_fields_of_the_contract(server: Server, bundle: Bundle) -> None:
    """These names and no others, at each level."""
    answer = score(server, wav(sound(FAN_0, 201)))
    assert set(answer) == {
        *("machine_type", "section", "domain", "decision", "anomaly_score", "decision_score", "threshold"),
        *("threshold_rule", "p_value", "calibration_clips", "deviation", "systems", "explanation", "window_scores"),
        *("clip", "warnings", "bundle", "target_version", "target_state", "request_id"),
    }
    assert set(answer["systems"]["adacos_resnet"]) == {"score", "p_value", "terms"}
    assert set(answer["systems"]["adacos_resnet"]["terms"]) == {"section", "attribute", "target", "temporal_maximum"}
    assert set(answer["clip"]) == {"duration_s", "sample_rate_hz", "channels", "level_dbfs", "sha256", "windows"}
    assert answer["bundle"] == bundle.id
    assert (answer["explanation"] is None) == (answer["decision"] == "normal")
    assert answer["window_scores"] is None
    assert {"few_calibration_clips", "demonstration_bundle"} <= {warning["code"] for warning in answer["warnings"]}


def test_a_raw_body_is_scored_like_a_multipart_one(server: Server) -> None:
    """Each content type of the contract, with the parameters in the query."""
    waveform = sound(FAN_0, 202)
    expected = score(server, wav(waveform))["anomaly_score"]
    bodies = {"audio/wav": wav(waveform), "audio/x-wav": wav(waveform), "audio/flac": wav(waveform, kind="FLAC")}
    for content_type, body in bodies.items():
        answer = server.client.post("/score", params=FIELDS, content=body, headers={"Content-Type": content_type})
        assert answer.json()["anomaly_score"] == pytest.approx(expected, rel=1e-6)
    ogg = wav(waveform, kind="OGG", subtype="VORBIS")
    answer = server.client.post("/score", params=FIELDS, content=ogg, headers={"Content-Type": "audio/ogg"})
    assert answer.json()["clip"]["duration_s"] == 10.0


def test_a_chunked_body_is_scored(server: Server) -> None:
    """As `arecord | curl -T -` sends it: without a declared length."""
    audio = wav(sound(FAN_0, 203))
    chunks = (audio[start : start + 10_000] for start in range(0, len(audio), 10_000))
    answer = server.client.post("/score", params=FIELDS, content=chunks, headers={"Content-Type": "audio/wav"})
    assert answer.json()["clip"]["duration_s"] == 10.0


def test_a_long_clip_has_a_score_for_each_window(server: Server) -> None:
    """Ten-second windows every five seconds; the score is their mean."""
    answer = score(server, wav(sound(FAN_0, 204, seconds=23.0)))
    assert [window["start_s"] for window in answer["window_scores"]] == [0.0, 5.0, 10.0, 13.0]
    mean = np.mean([window["decision_score"] for window in answer["window_scores"]])
    assert answer["decision_score"] == pytest.approx(float(mean))
    assert answer["clip"]["windows"] == 4


def test_an_explanation_can_be_asked_for(server: Server) -> None:
    """An alarm is explained in any case, a normal clip when it is asked."""
    normal, loud = wav(sound(FAN_0, 205)), sound(FAN_0, 205)
    assert score(server, normal)["decision"] == "normal"
    assert score(server, normal)["explanation"] is None
    found = score(server, normal, explain="true")["explanation"]
    assert set(found) == {"bands", "times", "changes", "nearest_attribute"}
    assert [set(change) for change in found["changes"]] == [{"kind", "rate_hz", "deviation"}] * len(found["changes"])
    loud[80_000:96_000] += 0.5 * np.sin(2 * np.pi * 5000 * np.arange(16_000) / 16_000).astype(np.float32)
    answer = score(server, wav(loud))
    assert answer["decision"] == "anomalous"
    (band, *_), (moment, *_) = answer["explanation"]["bands"], answer["explanation"]["times"]
    assert band["low_hz"] < 5000 < band["high_hz"]
    assert (moment["start_s"], moment["end_s"]) == pytest.approx((5.0, 6.0), abs=0.3)


def test_a_section_whose_first_clips_all_alarm_is_said_to_be_unknown(bundle: Bundle, tmp_path: Path) -> None:
    """From the fifth on, until one is normal: then the section is known, and alarms are alarms."""
    assert bundle.folder is not None
    with Server(bundle.folder, tmp_path / "db" / "targets.db", tmp_path / "log") as fresh:
        noise = np.random.default_rng(1).normal(0, 0.2, 160_000).astype(np.float32)

        def said() -> bool:
            answer = score(fresh, wav(noise))
            assert answer["decision"] == "anomalous"
            return "unknown_condition_or_fault" in {warning["code"] for warning in answer["warnings"]}

        assert [said() for _ in range(6)] == [False] * 4 + [True] * 2
        assert score(fresh, wav(sound(FAN_0, 205)))["decision"] == "normal"
        assert [said() for _ in range(6)] == [False] * 6


def test_the_request_id_is_honoured_or_made(server: Server) -> None:
    """A valid one comes back in header and body; another is replaced."""
    for given in ("line-3.2026-11-23T06:00", "a b", "", "x" * 200, "../../etc"):
        answer = server.client.get("/livez", headers={"X-Request-Id": given})
        assert answer.headers["X-Request-Id"] == answer.json()["request_id"] != given
    answer = server.client.get("/livez", headers={"X-Request-Id": "line-3.0042_a"})
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"] == "line-3.0042_a"


def test_many_at_once_get_their_own_answers(server: Server) -> None:
    """Batched with clips of other machine types and lengths, each clip scores as it does alone."""
    clips = [
        (key, wav(sound(key, seed, seconds=seconds)))
        for seed in range(300, 305)
        for key, seconds in ((FAN_0, 10.0), (PUMP, 10.0), (FAN_0, 17.0))
    ]
    alone = [score(server, audio, machine_type=key.machine_type)["anomaly_score"] for key, audio in clips]

    async def together() -> list[float]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client:
            answers = await asyncio.gather(
                *(
                    client.post(
                        "/score",
                        params={**FIELDS, "machine_type": key.machine_type},
                        content=audio,
                        headers={"Content-Type": "audio/wav"},
                    )
                    for key, audio in clips
                )
            )
        return [answer.json()["anomaly_score"] for answer in answers]

    assert asyncio.run(together()) == pytest.approx(alone, rel=1e-4)


def test_what_can_be_scored_is_listed(server: Server, bundle: Bundle, bundle_folder: Path) -> None:
    """Sections with their domains and thresholds; the bundle with the device it runs on."""
    sections = {(one["machine_type"], one["section"]): one for one in server.client.get("/sections").json()["sections"]}
    assert set(sections) == {("fan", "00"), ("fan", "01"), ("pump", "00")}
    assert set(sections["fan", "00"]["domains"]) == {"source", "target"}
    assert set(sections["fan", "01"]["domains"]) == {"source"}
    assert sections["fan", "00"]["target_version"] == 0
    assert sections["fan", "01"]["target_version"] is None
    threshold = bundle.calibrations[FAN_0, Domain.SOURCE].calibration.threshold
    assert sections["fan", "00"]["domains"]["source"] == {
        "threshold": threshold,
        "threshold_rule": "held_out",
        "calibration_clips": 12,
    }
    loaded = server.client.get("/bundle").json()
    assert loaded["bundle"] == bundle.id
    assert loaded["path"] == str(bundle_folder)
    assert set(loaded["training_data"]) == {"clips"}, "curves are for reports"
    assert loaded["device"]["running"] == "cpu"
    assert loaded["device"]["providers"] == ["CPUExecutionProvider"]


def test_the_openapi_document_is_ours(server: Server) -> None:
    """Stable operation ids, an example, problems for errors, and no trace of the framework's 422."""
    document = server.client.get("/openapi.json").json()
    operations = {
        operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()
    }
    assert set(operations) == {
        *("score_clip", "register_target_samples", "list_target_samples", "get_target_samples"),
        *("delete_target_samples", "list_target_samples_versions", "restore_target_samples"),
        *("list_sections", "get_bundle", "reload_bundle", "rollback_bundle", "livez", "readyz", "metrics"),
    }
    assert "HTTPValidationError" not in str(document)
    assert document["components"]["schemas"]["ScoreAnswer"]["examples"]
    assert set(operations["score_clip"]["responses"]) == {
        *("200", "400", "401", "403", "404", "409", "413", "415", "422", "429", "503", "504")
    }


def test_the_documentation_needs_no_internet(server: Server) -> None:
    """Every address that its page names is one of this service's own, and answers."""
    page = server.client.get("/docs")
    assert page.status_code == 200
    named = re.findall(r"""(?:src|href|url)\s*[:=]\s*["']([^"']*)""", page.text)
    assert len(named) == 4
    for address in named:
        assert address.startswith("/")
        answer = server.client.get(address)
        assert answer.status_code == 200
    assert '"validatorUrl": null' in page.text
