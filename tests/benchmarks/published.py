"""Small rows in the published schemas of HaluMem, ConvoMem and BEAM, valid ones that are odd among them."""

import json


def halumem_user(**fields):
    def turn(role, content, number):
        return {"role": role, "content": content, "timestamp": "Dec 15, 2025, 06:11:23", "dialogue_turn": number}

    def point(index, text, source="primary", **more):
        given = {"index": index, "memory_content": text, "memory_type": "Persona Memory", "memory_source": source}
        return {**given, "is_update": "False", "original_memories": [], "importance": 0.75, "timestamp": "x"} | more

    def question(text, answer, kind="Basic Fact Recall", **more):
        given = {"question": text, "answer": answer, "difficulty": "easy", "question_type": kind}
        return {**given, "evidence": [{"memory_content": "Ana lives in Oslo", "memory_type": "Persona Memory"}]} | more

    first = {
        "start_time": "Dec 15, 2025, 06:11:23",
        "end_time": "Dec 15, 2025, 06:41:23",
        "dialogue_turn_num": 2,
        "dialogue": [turn("user", f"I live in Oslo. {'Long ago. ' * 60}", 0), turn("assistant", "Lovely, Ana.", 0)],
        "memory_points": [
            point(1, "Ana lives in Oslo"),
            point(2, "Ana owns a boat", "interference", importance="0.5"),
        ],
        "questions": [
            question("Where does Ana live?", "Oslo"),
            question("Boat?", "No", "Memory Boundary", evidence=[]),
        ],
        "dialogue_token_length": 20,
    }
    distractor = first | {"is_generated_qa_session": True, "start_time": "Dec 16, 2025, 06:11:23"}
    change = {
        "start_time": "Dec 17, 2025, 06:11:23",
        "end_time": "",
        "dialogue_turn_num": 1,
        "dialogue": [turn("user", "We moved to Rome\u2028last week.", 0), turn("assistant", "", 0)],
        "memory_points": [
            point(1, "Ana lives in Rome", is_update="True", original_memories=["Ana lives in Oslo"], importance=None)
        ],
        "dialogue_token_length": 20,  # no questions in it
    }
    silent = change | {"dialogue": [], "memory_points": [], "questions": [question("And now?", "Rome")]}
    row = {"uuid": "u1", "persona_info": "Name: Ana; Gender: f", "sessions": [first, distractor, change, silent]}
    return row | {"total_dialogue_token_length": 60, "total_question_count": 3, "token_cost": {}} | fields


def convomem_item(answer="Oslo", **fields):
    def messages(*texts):
        return [{"speaker": "User" if i % 2 == 0 else "Assistant", "text": text} for i, text in enumerate(texts)]

    conversations = [
        {"id": "c1", "containsEvidence": True, "messages": messages("I moved to Oslo.", "Nice.", "")},
        {"id": "c2", "containsEvidence": True, "messages": messages("My boat is red."), "model_name": "x"},
    ]
    item = {"question": "Where do I live?", "answer": answer, "category": "user facts", "conversations": conversations}
    return item | {"message_evidences": [{"speaker": "User", "text": "I moved to Oslo."}], "personId": "p"} | fields


def convomem_tree(folder):
    """One file per layout and odd place."""
    evidence = folder / "core_benchmark" / "evidence_questions"
    files = {
        evidence / "user_evidence" / "1_evidence" / "batched" / "a.json": {
            "evidence_items": [convomem_item()],
            "checkpoint": None,
        },
        evidence / "preference_evidence" / "2_evidence" / "b.json": {
            "evidence_items": [convomem_item("The answer should respect that the user lives in Oslo.")]
        },
        folder / "mixed" / "changing_evidence" / "c.json": [
            {
                "evidenceItems": [convomem_item()],
                "conversations": [
                    {
                        "id": "filler",
                        "containsEvidence": False,
                        "messages": [{"speaker": "User", "text": "Rain again."}],
                    },
                    *convomem_item()["conversations"],
                ],
                "contextSize": 3,
            }
        ],
        folder / "abstention_evidence" / "1_evidence" / "d.json": {"evidence_items": [convomem_item("I don't know.")]},
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return files


def beam_row(probing=repr, **fields):
    def message(number, role, content, **more):
        return {"id": number, "index": f"{number},1", "role": role, "content": content, **more}

    chat = [
        [
            message(0, "user", "I'm building a budget app.", time_anchor="March-15-2024", question_type="main"),
            message(1, "assistant", "Which framework?"),
        ],
        [message(2, "user", "Flask, and it's due in May.", time_anchor="April-02-2024"), message(3, "assistant", "")],
    ]
    questions = {
        "abstention": [
            {"question": "Which bank?", "ideal_response": "It is not said.", "rubric": ["says it isn't said"]}
        ],
        "knowledge_update": [
            {"question": "Due?", "answer": "May", "difficulty": "easy", "rubric": ["May", "not April"]}
        ],
        "summarization": [{"question": "Sum up.", "ideal_summary": 'A Flask "app"', "rubric": []}],
    }
    return {"conversation_id": 7, "chat": chat, "probing_questions": probing(questions)} | fields
