"""Kinds on records, pairs, JSON, notes, dates, names, addresses, paths, times and prices.

Phrases are parted by `|`; the last of each list is never trained on.
"""

import json
import re
from collections.abc import Callable

from weft.tasks.functions.inputs import CITIES, FIRST_NAMES, MONTHS
from weft.tasks.functions.kind import Kind, Parameters, each, kind

_PLACES = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
_MAIL = re.compile(r"[\w.]+@[\w.]+\w")
_ISO = re.compile(r"\d{4}-\d\d-\d\d")
_SEASONS = ("winter", "winter", "spring", "spring", "spring", "summer", "summer", "summer", "autumn", "autumn",
            "autumn", "winter")  # fmt: skip


def _f(text: str) -> list[str]:
    return text.split("; ")


def _p(text: str) -> dict[str, str]:
    return dict(part.split(": ", 1) for part in text.split(", "))


def _text(pairs: dict[str, str], mark: str = ": ", sep: str = ", ") -> str:
    return sep.join(f"{key}{mark}{value}" for key, value in pairs.items())


def _j(text: str) -> dict[str, str]:
    return json.loads(text)


def _without(pairs: dict[str, str], key: str) -> dict[str, str] | None:
    return {k: v for k, v in pairs.items() if k != key} if key in pairs and len(pairs) > 1 else None


def _found(pattern: str) -> Callable[[str, Parameters], str | None]:
    def find(text: str, _: Parameters) -> str | None:
        match = re.search(pattern, text)
        return match.group() if match else None

    return find


def _member(names: tuple[str, ...]) -> Callable[[str, Parameters], str | None]:
    return lambda text, _: next((w for w in re.findall(r"\w+", text) if w in names), None)


def _d(text: str) -> tuple[str, int, int]:
    year, month, day = text.split("-")
    return year, int(month), int(day)


def _hour12(text: str, _: Parameters) -> str:
    hour, minute = text.split(":")
    return f"{(int(hour) + 11) % 12 + 1}:{minute} {'am' if int(hour) < 12 else 'pm'}"


def _plus(text: str, p: Parameters) -> str:
    hour, minute = text.split(":")
    return f"{(int(hour) + {'one': 1, 'two': 2, 'three': 3}[p['k']]) % 24:02}:{minute}"


def _part_of_day(text: str, _: Parameters) -> str:
    hour = int(text[:2])
    return "night" if hour < 6 else "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"


# fmt: off
FIELD_KINDS: tuple[Kind, ...] = (
    # ---------------------------------------------------------------- records: "Anna; Lisbon; nurse; 42"
    kind("field", "record -> text", lambda s, p: _f(s)[_PLACES[p["k"]]],
         "take the {k} field|extract the {k} field|give back the {k} column|pull out the {k} field",
         "the {k} field|the value in the {k} column|the {k} entry",
         each("k", "first", "second", "third"), each("k", "fourth")),
    kind("field_last", "record -> text", lambda s, p: _f(s)[-1],
         "take the last field|extract the final field|keep only the last column|pull out the last field",
         "the last field|the value after the last semicolon|the final entry"),
    kind("field_drop", "record -> text", lambda s, p: "; ".join(_f(s)[:_PLACES[p["k"]]] + _f(s)[_PLACES[p["k"]] + 1:]),
         "remove the {k} field|drop the {k} column|delete the {k} field|leave out the {k} field",
         "the record without its {k} field|all fields but the {k} one|everything except the {k} field",
         each("k", "first", "second"), each("k", "third")),
    kind("field_swap", "record -> text", lambda s, p: "; ".join([_f(s)[1], _f(s)[0], *_f(s)[2:]]),
         "swap the first two fields|exchange the first and second field|put the second field before the first|switch the first two columns",
         "the record with its first two fields swapped|the fields with the first two exchanged|the record, first and second field switched"),
    kind("field_reverse", "record -> text", lambda s, p: "; ".join(_f(s)[::-1]),
         "reverse the order of the fields|list the fields from last to first|turn the record around|write the fields in reverse order",
         "the fields in reverse order|the record back to front|the fields from last to first"),
    kind("field_commas", "record ->", lambda s, p: s.replace("; ", p["s"]),
         "put {n} between the fields|replace the semicolons with {n}|separate the fields by {n}|use {n} as the delimiter",
         "the fields separated by {n}|the record with {n} as the separator|the record, delimited by {n}",
         ({"s": ", ", "n": "commas"}, {"s": " | ", "n": "vertical bars"}, {"s": " - ", "n": "dashes"}),
         ({"s": " / ", "n": "slashes"},)),
    kind("field_first_last", "record -> text", lambda s, p: f"{_f(s)[0]}; {_f(s)[-1]}",
         "keep the first and the last field|keep only the outer two fields|drop the fields in the middle|remove all fields between the first and the last",
         "the first and the last field|the outer two fields|only the first and final field"),
    kind("field_head", "record -> text", lambda s, p: "; ".join(_f(s)[:{"two": 2, "three": 3}[p["k"]]]),
         "keep the first {k} fields|take only the first {k} columns|cut the record after {k} fields|return just the first {k} fields",
         "the first {k} fields|the leading {k} columns|the first {k} entries", each("k", "two", "three")),
    kind("field_tail", "record -> text", lambda s, p: "; ".join(_f(s)[-2:]),
         "keep the last two fields|take only the final two columns|drop all fields but the last two|return just the last two fields",
         "the last two fields|the final two columns|the last two entries"),
    kind("record_pairs", "record -> pairs", lambda s, p: ", ".join(f"{k}: {v}" for k, v in zip(("name", "city", "job", "age"), _f(s), strict=False)),
         "label the fields name, city, job and age|turn the record into name, city, job and age pairs|write each field behind its label: name, city, job, age|add the labels name, city, job and age",
         "the fields with the labels name, city, job, age|name, city, job and age pairs|the record as labelled values"),
    kind("record_sentence", "record -> text", lambda s, p: f"{_f(s)[0]} lives in {_f(s)[1]}.",
         "write a sentence that says who lives where|turn the record into a sentence about where the person lives|say in a sentence in which city the person lives|make a sentence of the name and the city",
         "a sentence about where the person lives|who lives in which city, as a sentence|one sentence with name and city"),
    kind("record_age_sentence", "record -> text", lambda s, p: f"{_f(s)[0]} is {_f(s)[3]} years old.",
         "write a sentence that says how old the person is|turn the record into a sentence about the age|say in a sentence how old the person is|make a sentence of the name and the number",
         "a sentence about the age of the person|how old the person is, as a sentence|one sentence with name and age"),
    kind("field_numbered", "record ->", lambda s, p: " ".join(f"{i}. {v}" for i, v in enumerate(_f(s), 1)),
         "number the fields|put a number before each field|write the fields as a numbered list|give each field a number",
         "the fields, numbered|the fields as a numbered list|a numbered list of the fields"),
    # ---------------------------------------------------------------- pairs: "name: Anna, city: Lisbon"
    kind("pair_value", "pairs -> text", lambda s, p: _p(s).get(p["k"]),
         "extract the {k}|take the value of {k}|look up the {k}|pull out the value for {k}",
         "the {k}|the value of {k}|what stands under {k}",
         each("k", "name", "city", "job", "age"), each("k", "color")),
    kind("pair_keys", "pairs -> words", lambda s, p: ", ".join(_p(s)),
         "list the keys|keep only the keys|name all keys|write down just the keys",
         "the keys|the list of all keys|only the names of the keys"),
    kind("pair_values", "pairs -> words", lambda s, p: ", ".join(_p(s).values()),
         "list the values|keep only the values|remove the keys|write down just the values",
         "the values|the list of all values|only the values without keys"),
    kind("pair_json", "pairs -> json", lambda s, p: json.dumps(_p(s)),
         "convert the pairs to json|write the pairs as a json object|turn the pairs into json|format the pairs as json",
         "the pairs as json|a json object with the pairs|the json version of the pairs"),
    kind("pair_equals", "pairs ->", lambda s, p: _text(_p(s), "=", p["s"]),
         "write the pairs as key=value joined by {n}|use equals signs and put {n} between the pairs|convert the pairs to key=value with {n} in between|format the pairs as key=value, joined by {n}",
         "the pairs as key=value joined by {n}|key=value pairs with {n} between them|the pairs with equals signs and {n}",
         ({"s": "; ", "n": "semicolons"}, {"s": "&", "n": "ampersands"}), ({"s": " | ", "n": "bars"},)),
    kind("pair_drop", "pairs -> pairs", lambda s, p: (lambda d: _text(d) if d else None)(_without(_p(s), p["k"])),
         "remove the {k}|drop the {k} pair|delete the key {k} with its value|leave out the {k}",
         "the pairs without {k}|all pairs except {k}|everything but the {k}",
         each("k", "name", "city", "age"), each("k", "job")),
    kind("pair_flip", "pairs -> pairs", lambda s, p: _text({v: k for k, v in _p(s).items()}),
         "swap keys and values|put each value before its key|exchange every key with its value|turn values into keys and keys into values",
         "the pairs with keys and values swapped|each value with its key after it|the pairs the other way round"),
    kind("pair_first", "pairs -> pairs", lambda s, p: s.split(", ")[0],
         "keep only the first pair|take the first pair|drop all pairs but the first|return just the first pair",
         "the first pair|the first key with its value|the leading pair"),
    kind("pair_last", "pairs -> pairs", lambda s, p: s.split(", ")[-1],
         "keep only the last pair|take the last pair|drop all pairs but the last|return just the final pair",
         "the last pair|the last key with its value|the final pair"),
    kind("pair_sort", "pairs -> pairs", lambda s, p: _text(dict(sorted(_p(s).items()))),
         "sort the pairs by key|put the pairs in alphabetical order|order the pairs by their keys|arrange the pairs alphabetically",
         "the pairs sorted by key|the pairs in alphabetical order|the pairs, alphabetically"),
    # ---------------------------------------------------------------- JSON
    kind("json_value", "json -> text", lambda s, p: _j(s).get(p["k"]),
         "read the {k} from the json|extract the value of {k}|get the {k} field of the object|take the {k} out of the json",
         "the {k} in the json|the value of {k}|the object's {k}",
         each("k", "name", "city", "age"), each("k", "job")),
    kind("json_keys", "json -> words", lambda s, p: ", ".join(_j(s)),
         "list the keys of the json|name the keys of the object|write the json's keys with commas|give all keys of the object",
         "the keys of the json|the object's keys|all key names in the json"),
    kind("json_values", "json -> words", lambda s, p: ", ".join(_j(s).values()),
         "list the values of the json|name the values of the object|write the json's values with commas|give all values of the object",
         "the values of the json|the object's values|all values in the json"),
    kind("json_pairs", "json -> pairs", lambda s, p: _text(_j(s)),
         "write the json as plain key: value pairs|remove the braces and quotes from the json|turn the json into plain pairs|flatten the json into simple pairs",
         "the json as plain pairs|plain key: value text|the object without braces and quotes"),
    kind("json_drop", "json -> json", lambda s, p: (lambda d: json.dumps(d) if d else None)(_without(_j(s), p["k"])),
         "delete the {k} from the json|remove the key {k} from the object|drop {k} from the json|leave {k} out of the object",
         "the json without {k}|the object minus its {k}|the json with {k} removed",
         each("k", "name", "city"), each("k", "age")),
    # ---------------------------------------------------------------- notes with details
    kind("note_name", "note -> text", _member(FIRST_NAMES),
         "find the person's name|extract the name|say who it is about|pick out the person mentioned",
         "the name of the person|the person who is mentioned|who this is about"),
    kind("note_city", "note -> text", _member(CITIES),
         "find the city|extract the city|say which city is mentioned|pick out the place",
         "the city|the name of the city in the text|the place that is mentioned"),
    kind("note_date", "note -> date", _found(_ISO.pattern),
         "find the date|extract the date|copy the date from the text|pick out the date",
         "the date|the date in the text|the day that is mentioned"),
    kind("note_number", "note -> text", _found(r"(?<![\w@.-])\d\d?(?![\w@.-])"),
         "find the amount|extract the number of things|say how many or how much|pick out the quantity",
         "the amount|the quantity in the text|how many or how much"),
    kind("note_email", "note -> email", _found(_MAIL.pattern),
         "find the email address|extract the email|copy the mail address|pick out the email address",
         "the email address|the mail address in the text|the email that is given"),
    kind("note_year", "note -> text", _found(r"\b\d{4}(?=-)"),
         "find the year|extract the year of the date|say in which year it was|pick out the year",
         "the year|the year of the date in the text|the year that is mentioned"),
    kind("note_mask_email", "note -> text", lambda s, p: _MAIL.sub(p["x"], s),
         "replace the email address with {x}|mask the email as {x}|write {x} instead of the email|hide the mail address behind {x}",
         "the text with {x} in place of the email|the text with its email masked as {x}|the text, email replaced by {x}",
         each("x", "[email]", "***")),
    kind("note_domain", "note -> text", lambda s, p: _MAIL.findall(s)[0].split("@")[1],
         "find the domain of the email address|extract the mail domain|say which mail domain is used|pick out the domain of the email",
         "the domain of the email address|the mail domain in the text|the part after the @ in the text"),
    # ---------------------------------------------------------------- dates: "2024-03-17"
    kind("date_year", "date -> text", lambda s, p: s[:4],
         "take the year|extract the year|keep only the year|give just the year", "the year|the year of the date|which year it is"),
    kind("date_month", "date -> text", lambda s, p: s[5:7],
         "take the month as two digits|extract the month number|keep only the month digits|give just the month as a number",
         "the number of the month|the month as two digits|the month in digits"),
    kind("date_day", "date -> text", lambda s, p: s[8:],
         "take the day of the month|extract the day|keep only the day|give just the day", "the day|the day of the month|which day of the month it is"),
    kind("date_dmy", "date -> text", lambda s, p: p["s"].join((s[8:], s[5:7], s[:4])),
         "write the date as day, month, year with {n}|put the day first and the year last, with {n}|format the date as dd mm yyyy with {n}|reorder the date to day month year, using {n}",
         "the date as dd mm yyyy with {n}|day, month, year separated by {n}|the date, day first, with {n}",
         ({"s": "/", "n": "slashes"}, {"s": ".", "n": "dots"}), ({"s": "-", "n": "dashes"},)),
    kind("date_mdy", "date -> text", lambda s, p: f"{s[5:7]}/{s[8:]}/{s[:4]}",
         "write the date the American way|put the month first, with slashes|format the date as mm/dd/yyyy|reorder the date to month/day/year",
         "the date as mm/dd/yyyy|the American form of the date|the date, month first, with slashes"),
    kind("date_long", "date -> text", lambda s, p: f"{_d(s)[2]} {MONTHS[_d(s)[1] - 1]} {s[:4]}",
         "write the date with the month's name, day first|spell the date out like 5 May 2020|put the date in words, day month year|write out the date with the day before the month's name",
         "the date spelled out, day first|the date like 5 May 2020|the long form of the date, day first"),
    kind("date_long_us", "date -> text", lambda s, p: f"{MONTHS[_d(s)[1] - 1]} {_d(s)[2]}, {s[:4]}",
         "write the date with the month's name first|spell the date out like May 5, 2020|put the date in words, month first|write out the date in long American form",
         "the date spelled out, month first|the date like May 5, 2020|the long American form of the date"),
    kind("date_month_name", "date -> text", lambda s, p: MONTHS[_d(s)[1] - 1],
         "name the month|say which month it is in words|give the month's name|tell the month by its name",
         "the name of the month|the month in words|the month's full name"),
    kind("date_month_short", "date -> text", lambda s, p: MONTHS[_d(s)[1] - 1][:3],
         "give the month as three letters|abbreviate the month's name|write the month's short name|shorten the month to three letters",
         "the three-letter month|the short name of the month|the month, abbreviated"),
    kind("date_compact", "date -> text", lambda s, p: s.replace("-", ""),
         "remove the dashes from the date|write the date as eight digits|join year, month and day without dashes|squeeze the date into digits only",
         "the date without dashes|the date as eight digits|the digits of the date alone"),
    kind("date_season", "date -> text", lambda s, p: _SEASONS[_d(s)[1] - 1],
         "name the season|say which season it is|tell whether it is spring, summer, autumn or winter|work out the season",
         "the season|the season of the date|the time of year: spring, summer, autumn or winter"),
    kind("date_quarter", "date -> text", lambda s, p: f"Q{(_d(s)[1] + 2) // 3}",
         "give the quarter as Q1 to Q4|say which quarter of the year it is|name the quarter|work out the quarter",
         "the quarter, Q1 to Q4|the quarter of the year|which quarter the date is in"),
    kind("date_year_month", "date -> text", lambda s, p: s[:7],
         "drop the day|keep only the year and the month|cut the day off the date|leave out the day",
         "the year and the month|the date without its day|year and month only"),
    kind("date_before", "date ->", lambda s, p: "yes" if int(s[:4]) < int(p["y"]) else "no",
         "say yes if the date is before {y}, else no|answer whether the date lies before {y}|check whether the year is earlier than {y}, yes or no|tell if it is before {y} with yes or no",
         "yes if the date is before {y}, otherwise no|yes or no: before {y}|whether it is earlier than {y}, yes or no",
         each("y", "2000", "2010"), each("y", "1995")),
    # ---------------------------------------------------------------- names: "Anna Keller"
    kind("name_first", "name -> text", lambda s, p: s.split()[0],
         "take the first name|keep only the given name|drop the surname|give just the first name", "the first name|the given name|the name without the surname"),
    kind("name_last", "name -> text", lambda s, p: s.split()[1],
         "take the last name|keep only the surname|drop the given name|give just the family name", "the last name|the surname|the family name"),
    kind("name_initials", "name -> text", lambda s, p: p["s"].join(w[0] for w in s.split()) + p["e"],
         "write the initials {n}|shorten the name to its initials {n}|give the initials {n}|turn the name into initials {n}",
         "the initials {n}|the first letters of the name {n}|the person's initials {n}",
         ({"s": "", "e": "", "n": "without dots"}, {"s": ".", "e": ".", "n": "with dots"})),
    kind("name_swap", "name -> text", lambda s, p: "{1}, {0}".format(*s.split()),
         "put the surname first with a comma|write the name as last name, comma, first name|turn the name around with a comma|rewrite the name in last, first form",
         "the name as surname, first name|the name with the surname first and a comma|last name, comma, first name"),
    kind("name_short", "name -> text", lambda s, p: f"{s[0]}. {s.split()[1]}",
         "abbreviate the first name|shorten the given name to a letter and a dot|write the first name as an initial|cut the first name to its initial",
         "the name with the first name abbreviated|the initial and the surname|the name like A. Smith"),
    kind("name_first_initial", "name -> text", lambda s, p: f"{s.split()[0]} {s.split()[1][0]}.",
         "abbreviate the surname|shorten the last name to a letter and a dot|write the surname as an initial|cut the last name to its initial",
         "the name with the surname abbreviated|the first name and the surname's initial|the name like Anna S."),
    kind("name_mail", "name -> email", lambda s, p: f"{s.lower().replace(' ', '.')}@{p['d']}",
         "make an email address at {d}|write the person's address at {d}|build first.last@{d} from the name|create a mail address at {d}",
         "the email address at {d}|first.last@{d}|the person's mail at {d}",
         each("d", "acme.com", "mail.org"), each("d", "shop.net")),
    kind("name_user", "name -> text", lambda s, p: (s[0] + s.split()[1]).lower(),
         "make a login from the first initial and the surname|build a username of initial and last name|turn the name into a login like asmith|create the login name",
         "a username of initial and surname|the login, like asmith|the user name for this person"),
    kind("name_greet", "name -> text", lambda s, p: f"{p['w']} {s.split()[0]},",
         "begin a letter with {w} and the first name|write the greeting {w} for this person|start a mail with {w}|open a letter to them with {w}",
         "the opening of a letter with {w}|a greeting with {w}|the salutation that starts with {w}",
         each("w", "Dear", "Hello"), each("w", "Hi")),
    kind("name_formal", "name -> text", lambda s, p: f"{p['w']} {s.split()[1]}",
         "write {w} and the surname|address the person as {w}|replace the first name with {w}|put {w} in place of the first name",
         "the surname with {w} before it|the person as {w} and surname|the formal name with {w}",
         each("w", "Mr.", "Dr."), each("w", "Ms.")),
    # ---------------------------------------------------------------- addresses and paths
    kind("mail_domain", "email -> text", lambda s, p: s.split("@")[1],
         "take the domain|keep what stands after the @|extract the domain of the address|drop everything up to the @",
         "the domain|the part after the @|the mail server's domain"),
    kind("mail_user", "email -> text", lambda s, p: s.split("@")[0],
         "take the user name|keep what stands before the @|extract the local part of the address|drop everything from the @ on",
         "the user name|the part before the @|the local part of the address"),
    kind("mail_ending", "email -> text", lambda s, p: s.rsplit(".", 1)[1],
         "take the ending after the last dot|extract the top-level domain|keep only the domain ending|give the letters after the last dot",
         "the top-level domain|the ending after the last dot|what follows the last dot"),
    kind("mail_mask", "email -> text", lambda s, p: f"{s[0]}***@{s.split('@')[1]}",
         "hide the user name behind stars except its first letter|mask the user name, keep its first letter|replace all but the first letter before the @ with ***|star out the user name after its first letter",
         "the address with a masked user name|the address with *** after its first letter|the masked address"),
    kind("mail_at", "email -> text", lambda s, p: s.replace("@", " at "),
         "write at instead of the @ sign|replace @ by the word at|spell out the @ sign|put the word at in place of @",
         "the address with at instead of @|the address with the @ spelled out|the address, @ in words"),
    kind("url_host", "url -> text", lambda s, p: s.split("/")[2],
         "take the host|extract the host name|keep only the server name|pull out the host of the link", "the host|the host name of the link|the server in the link"),
    kind("url_page", "url -> text", lambda s, p: s.rsplit("/", 1)[1],
         "take the last part of the path|extract the page name|keep what stands after the last slash|pull out the final part of the link",
         "the last part of the link|the page name|what follows the last slash"),
    kind("url_scheme", "url -> text", lambda s, p: s.split(":")[0],
         "name the protocol|extract the scheme|keep only http or https|tell which protocol the link uses", "the protocol|the scheme of the link|http or https, as in the link"),
    kind("url_bare", "url -> text", lambda s, p: s.split("//")[1],
         "remove the protocol|drop http or https with its slashes|strip the scheme off|cut off everything before the host",
         "the link without the protocol|the link without http or https|the link from the host on"),
    kind("url_secure", "url ->", lambda s, p: "yes" if s.startswith("https") else "no",
         "say yes if the link is secure, else no|answer whether it uses https, yes or no|check for https with yes or no|tell by yes or no if the link uses https",
         "yes for https and no for http|yes or no: is the link secure|whether it is https, yes or no"),
    kind("path_file", "path -> text", lambda s, p: s.rsplit("/", 1)[1],
         "take the file name|keep only the file name with its extension|drop the folders|pull out the name of the file",
         "the file name|the name of the file with its extension|the file without its folders"),
    kind("path_ext", "path -> text", lambda s, p: s.rsplit(".", 1)[1],
         "take the file extension|keep only the extension|extract the file type|give the letters after the dot",
         "the file extension|the extension without the dot|the file's type ending"),
    kind("path_folder", "path -> text", lambda s, p: s.rsplit("/", 1)[0],
         "take the folder|remove the file name|keep only the directory|strip the file off the path",
         "the folder|the directory of the file|the path without the file"),
    kind("path_stem", "path -> text", lambda s, p: s.rsplit("/", 1)[1].split(".")[0],
         "take the file name without its extension|keep the bare file name|drop folders and extension|give the name of the file without the ending",
         "the file name without extension|the bare name of the file|the file's name, neither folder nor ending"),
    kind("path_top", "path -> text", lambda s, p: s.split("/")[1],
         "name the top folder|take the first folder of the path|extract the topmost directory|give the first directory",
         "the top folder|the first folder in the path|the topmost directory"),
    kind("path_change", "path -> path", lambda s, p: f"{s.rsplit('.', 1)[0]}.{p['e']}",
         "change the extension to {e}|give the file the ending {e}|replace the file type by {e}|swap the extension for {e}",
         "the path with the extension {e}|the same path ending in {e}|the path as a {e} file",
         each("e", "txt", "bak"), each("e", "html")),
    kind("path_type", "path ->", lambda s, p: {"pdf": "document", "txt": "document", "docx": "document", "csv": "table", "jpg": "image", "png": "image", "mp3": "sound", "zip": "archive"}.get(s.rsplit(".", 1)[1]),
         "say whether the file is a document, table, image, sound or archive|classify the file by its extension|name the kind of file|tell what sort of file it is",
         "the kind of file: document, table, image, sound or archive|the file's kind|the sort of file"),
    # ---------------------------------------------------------------- times, prices, phone numbers
    kind("time_hour", "time -> text", lambda s, p: s[:2],
         "take the hour|keep only the hour|drop the minutes|give just the hours", "the hour|the hour of the time|the digits before the colon"),
    kind("time_minute", "time -> text", lambda s, p: s[3:],
         "take the minutes|keep only the minutes|drop the hour|give just the minutes", "the minutes|the minutes of the time|the digits after the colon"),
    kind("time_12", "time -> text", _hour12,
         "convert the time to am or pm|write the time on the 12-hour clock|put the time in am/pm form|change the time to 12-hour format",
         "the time with am or pm|the time on a 12-hour clock|the 12-hour form of the time"),
    kind("time_part", "time ->", _part_of_day,
         "say whether it is night, morning, afternoon or evening|name the part of the day|classify the time as night, morning, afternoon or evening|tell the part of the day",
         "the part of the day|night, morning, afternoon or evening|which part of the day it is"),
    kind("time_ampm", "time ->", lambda s, p: "am" if int(s[:2]) < 12 else "pm",
         "say am or pm|answer am before noon and pm after|tell whether it is am or pm|decide between am and pm", "am or pm|am before noon, pm after|whether the time is am or pm"),
    kind("time_plus", "time -> time", _plus,
         "add {k} hours|move the time {k} hours later|put the clock {k} hours ahead|advance the time by {k} hours",
         "the time {k} hours later|the time plus {k} hours|what the clock shows in {k} hours",
         each("k", "one", "two"), each("k", "three")),
    kind("time_dot", "time -> text", lambda s, p: s.replace(":", p["x"]),
         "replace the colon with {n}|write {n} between hours and minutes|use {n} in place of the colon|put {n} where the colon is",
         "the time with {n} for the colon|hours and minutes with {n} between|the time written with {n}",
         ({"x": ".", "n": "a dot"}, {"x": "h", "n": "an h"})),
    kind("price_number", "price -> text", lambda s, p: s[1:],
         "remove the dollar sign|write the price without the currency|keep only the number|strip the dollar sign off",
         "the price without the dollar sign|the bare amount|the number alone, no currency"),
    kind("price_currency", "price -> text", lambda s, p: f"{s[1:]} {p['c']}",
         "write {c} after the amount instead of the dollar sign|replace the dollar sign with {c} at the end|put the currency {c} behind the number|show the price in the form 1.00 {c}",
         "the amount followed by {c}|the price with {c} at the end|the number and then {c}",
         each("c", "EUR", "USD"), each("c", "euros")),
    kind("price_whole", "price -> text", lambda s, p: s[1:].split(".")[0],
         "drop the cents|take the whole dollars|keep only the digits before the dot|give the dollars without the cents",
         "the whole dollars|the price without cents|the dollars alone"),
    kind("price_cents", "price -> text", lambda s, p: s.split(".")[1],
         "take the cents|keep only the digits after the dot|drop the dollars|give just the cents", "the cents|the two digits after the dot|the cents alone"),
    kind("price_class", "price ->", lambda s, p: "cheap" if float(s[1:]) < int(p["t"]) else "expensive",
         "call it cheap below {t} dollars, else expensive|classify the price as cheap (under {t}) or expensive|say cheap if it costs less than {t}, otherwise expensive|label the price cheap or expensive with {t} as the limit",
         "cheap or expensive, with the limit at {t}|cheap if under {t}, otherwise expensive|the label cheap (below {t}) or expensive",
         each("t", "20", "50"), each("t", "35")),
    kind("phone_last", "phone -> text", lambda s, p: s[-4:],
         "take the last four digits|keep only the last four digits|drop all but the final four digits|give just the last four digits",
         "the last four digits|the final part of the number|the digits after the last dash"),
    kind("phone_area", "phone -> text", lambda s, p: s[:3],
         "take the area code|keep only the first three digits|drop all but the first three digits|give just the area code",
         "the area code|the first three digits|the digits before the first dash"),
    kind("phone_digits", "phone -> text", lambda s, p: s.replace("-", p["s"]),
         "write {n}|change the number so that it has {n}|format the number with {n}|rewrite the phone number with {n}",
         "the phone number with {n}|the number, {n}|the digits with {n}",
         ({"s": "", "n": "no dashes"}, {"s": " ", "n": "spaces instead of dashes"}, {"s": ".", "n": "dots instead of dashes"})),
    kind("phone_mask", "phone -> text", lambda s, p: "***-***-" + s[-4:],
         "hide all but the last four digits behind stars|mask the first six digits with stars|star out the number except its last four digits|replace the first six digits by stars",
         "the number with only its last four digits shown|the masked phone number|the number with stars for the first six digits"),
    kind("phone_brackets", "phone -> text", lambda s, p: f"({s[:3]}) {s[4:]}",
         "put the area code in brackets|write the first three digits in parentheses|format the number like (555) 123-4567|set brackets around the area code",
         "the number with the area code in brackets|the number like (555) 123-4567|the phone number with parentheses"),
)
# fmt: on
