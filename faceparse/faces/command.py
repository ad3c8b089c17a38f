"""What `parse_faces.py` and the installed command `faceparse` do with photographs and videos."""

import json
import re
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from faceparse.data.checks import class_pixels
from faceparse.data.classes import find_class_set, find_ids
from faceparse.data.drawing import cut_out, overlay, recolour
from faceparse.data.images import READ_SUFFIXES, read_photo, write_label_map, write_picture
from faceparse.data.provenance import check_outputs, provenance
from faceparse.errors import InputError, counted
from faceparse.files import atomic_path, check_new_folder
from faceparse.inference.networks import say_device

OTHER_PHOTOGRAPHS = {".avif", ".dng"} - READ_SUFFIXES  # which Pillow does not read, or only in part
FACE = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "i_mouth", "u_lip", "l_lip")


def say(message):
    tqdm.write(message, file=sys.stderr)


def find_inputs(inputs, suffixes):
    """Return the files that the inputs name, folders read, and a list of what is wrong with the others."""
    files, problems = {}, []  # a dict, so that each file is there once
    for path in map(Path, inputs):
        if path.is_dir():
            inside = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
            found = [file for file in inside if file.suffix.lower() in suffixes | OTHER_PHOTOGRAPHS]
            files |= dict.fromkeys(found)
            if not found:
                problems.append(f"{path}: holds no photographs and no videos; folders within it are not read")
        elif path.is_file():
            files[path] = None
        else:
            problems.append(f"{path}: no such file or folder")
    unread = [file for file in files if file.suffix.lower() in OTHER_PHOTOGRAPHS]
    problems += [f"{file}: of a format that is not read; save it as JPEG or PNG" for file in unread]
    return [file for file in files if file not in unread], problems


def output_names(file, is_video, cutouts, recoloured):
    """Return the names of the files that an input leads to."""
    if is_video:
        return [f"{file.stem}_overlay.mp4"]
    endings = [".png", ".json", "_overlay.jpg", *(f"_{suffix}.png" for suffix in cutouts)]
    return [f"{file.stem}{ending}" for ending in endings + ["_colored.jpg"] * bool(recoloured)]


def refuse_same_outputs(names_of, each_face=False):
    """Raise InputError if two of {file: [output names]} would write one file, of one of its faces with `each_face`."""
    owners = {}
    for file, name in ((file, name) for file, names in names_of.items() for name in names):
        if name.lower() in owners:  # some file systems do not tell cases apart
            raise InputError(f"{file}: would write {name} as {owners[name.lower()]} does; rename one of them")
        owners[name.lower()] = file
    for name, file in owners.items() if each_face else ():
        of_a_face = re.fullmatch(r"(.+)_face\d+(_.+)?\.png", name)
        owner = of_a_face and owners.get(f"{of_a_face[1]}.png")  # its label map
        if owner and f"{of_a_face[1]}{of_a_face[2] or ''}.png" in owners:
            raise InputError(f"{file}: would write {name}, which --each_face may make of {owner}; rename one of them")


def cutout_classes(text, class_set):
    """Return the class names that an argument of --cutout stands for. Raises InputError for an unknown name."""
    groups = {"person": class_set.names[1:], "face": [each for each in FACE if each in class_set.names]}
    groups |= {name: [name] for name in class_set.names}
    names = []
    for name in map(str.strip, text.split(",")):
        names += groups.get(name) or [class_set.names[class_set.id_of(name, "--cutout")]]
    return names


def describe(file, parsed, labels):
    """Return what the JSON file says of a photograph and its label map."""
    names = parsed.class_set.names

    def shares(labels):
        counts = class_pixels(labels, len(names)).tolist()
        return {name: round(count / labels.size, 5) for name, count in zip(names, counts, strict=True) if count}

    faces = [
        {
            "box": face.box and [round(side, 1) for side in face.box],
            "landmarks": [[round(x, 1), round(y, 1)] for x, y in face.landmarks],
            "angle": round(face.angle, 1),
            "confidence": round(face.confidence, 4),
            "shares_of_crop": shares(face.labels),
        }
        for face in parsed.faces
    ]
    height, width = labels.shape
    return {"file": file.name, "width": width, "height": height, "faces": faces, "shares": shares(labels)}


def parse_photo(parser, file, cutouts, args, write_labels):
    """Write all files of a photograph, of {suffix: class names} cut out; return the number of faces; InputError."""
    parsed = parser(read_photo(file), whole=args.whole)
    if args.face and len(parsed.faces) < args.face:
        raise InputError(f"{file}: has no face {args.face}, but {len(parsed.faces)}; nothing is written for it")
    photo, place = parsed.photo, str(Path(args.output_dir, file.stem))
    people = list(enumerate(parsed.faces, start=1)) if args.each_face else []
    endings = ["", *(f"_{suffix}" for suffix in cutouts)]
    numbered = [f"{file.stem}_face{number}{ending}.png" for number, _ in people for ending in endings]
    check_outputs("--output_dir", args.output_dir, (), numbered)
    chosen = parsed.belongs_to(parsed.faces[args.face - 1]) if args.face else np.ones(photo.shape[:2], bool)
    labels = parsed.labels * chosen
    write_labels(f"{place}.png", labels)
    write_picture(f"{place}_overlay.jpg", overlay(photo, labels, class_set=parsed.class_set))
    for number, face in people:
        write_labels(f"{place}_face{number}.png", labels * parsed.belongs_to(face))
    head = float(np.median([face.crop.width for face in parsed.faces] or max(photo.shape) / 2))
    for suffix, names in cutouts.items():
        cut = cut_out(photo, parsed.probability(*names), head)
        write_picture(f"{place}_{suffix}.png", cut * chosen[..., None])
        for number, face in people:
            write_picture(f"{place}_face{number}_{suffix}.png", cut * parsed.belongs_to(face)[..., None])
    if args.colors:
        for name, colour in args.colors:
            photo = recolour(photo, colour, parsed.probability(name) * chosen)
        write_picture(f"{place}_colored.jpg", photo)
    description = json.dumps(describe(file, parsed, labels), indent=1, ensure_ascii=False)
    with atomic_path(f"{place}.json") as temporary:
        temporary.write_text(description, encoding="utf-8")
    return len(parsed.faces)


def write_frame(parsed, place, kind, cutouts, write_labels):
    """Write what --frames asks for of a frame. The edge is not matted, which would take seconds for each."""
    if kind == "labels":
        write_labels(f"{place}.png", parsed.labels)
        return
    for suffix, names in (cutouts or {"person": parsed.class_set.names[1:]}).items():
        write_picture(f"{place}_{suffix}.png", cut_out(parsed.photo, parsed.probability(*names)))


def main(args):
    from faceparse.faces.face_parser import FaceParser  # here, so that --help need not wait for these
    from faceparse.faces.video import VIDEO_SUFFIXES, show_webcam

    if bool(args.inputs) == (args.webcam is not None):
        raise InputError("give photographs, videos or folders to parse, or else --webcam 0, and not both")
    suffixes = {"_".join(map(str.strip, text.split(","))): text for text in args.cutout}
    files, problems = find_inputs(args.inputs, READ_SUFFIXES | VIDEO_SUFFIXES)
    if args.inputs and not files:
        raise InputError("; ".join(problems))
    videos = {file for file in files if file.suffix.lower() in VIDEO_SUFFIXES}
    photos = [file for file in files if file not in videos]
    names_of = {file: output_names(file, file in videos, suffixes, args.colors) for file in files}
    refuse_same_outputs(names_of, args.each_face)
    check_outputs("--output_dir", args.output_dir, files, [name for file in photos for name in names_of[file]])
    for video in videos if args.frames else ():
        check_new_folder("--frames", Path(args.output_dir, f"{video.stem}_frames"))
    class_set = args.classes and find_class_set(args.classes)
    parser = FaceParser(args.checkpoint, gpu_id=args.gpu_id, image_size=args.image_size, class_set=class_set)
    if not args.whole:
        _ = parser.detector.networks  # here, or each file would end with the same error without their package
    say_device(parser.network)
    cutouts = {suffix: cutout_classes(text, parser.class_set) for suffix, text in suffixes.items()}
    for name, _ in args.colors:
        parser.class_set.id_of(name, "--colors")
    if args.webcam is None:
        parse_files(parser, files, videos, problems, cutouts, args)
    else:
        show_webcam(parser, args.webcam)


def parse_files(parser, files, videos, problems, cutouts, args):
    """Parse files, say what happens, and end with an exit status other than 0 if something was wrong."""
    from faceparse.faces.video import find_ffmpeg

    cut_frames = args.frames == "cutout"
    if videos and (args.colors or args.whole or args.face or args.each_face or (args.cutout and not cut_frames)):
        say("--colors, --whole, those of faces, and --cutout without --frames cutout are for photographs alone")
    if cutouts and len(videos) < len(files) and not find_spec("pymatting"):
        say("cut-outs have a soft edge; with pip install pymatting it follows single strands of hair")
    if videos and not find_ffmpeg():
        say("videos are written without sound and browsers do not play them; pip install imageio-ffmpeg changes that")
    for problem in problems:
        say(f"error: {problem}")
    searched = "not searched" if args.whole else "found"
    class_set, ids = find_ids(args.ids, parser.class_set)
    made_by = provenance(args.checkpoint, parser.image_size, False, class_set, ids, faces=searched)
    write_labels = partial(write_label_map, made_by=made_by, ids=ids)
    found = {}  # faces of a photograph, frames with faces of a video
    for file in tqdm(files, "parsing", unit="file", leave=False, disable=None):
        parse = parse_video if file in videos else parse_photo
        try:
            found[file] = parse(parser, file, cutouts, args, write_labels)
        except InputError as error:
            problems.append(error)
            say(f"error: {error}")
        if found.get(file) == 0:
            say(f"{file}: no face found{'' if file in videos else '; parsed as a whole'}")
    counts = [found[file] for file in files if file in found and file not in videos]
    done = [f"{counted(sum(counts), 'face')} of {counted(len(counts), 'photograph')}"] * bool(counts)
    done += [counted(len(found) - len(counts), "video")] * (len(found) > len(counts))
    if done:
        print(f"{' and '.join(done)}, in {args.output_dir}")
    if problems or not all(found.values()):
        sys.exit(2 if problems else 1)


def parse_video(parser, file, cutouts, args, write_labels):
    """Write the overlay of a video and its frames, if asked for; return the number of frames with faces; InputError."""
    from faceparse.faces.video import write_video

    output_dir = Path(args.output_dir)
    frames_dir = args.frames and output_dir / f"{file.stem}_frames"
    write = partial(write_frame, kind=args.frames, cutouts=cutouts, write_labels=write_labels)
    done = write_video(parser, file, output_dir / f"{file.stem}_overlay.mp4", frames_dir, write)
    counts = f"{counted(done['frames'], 'frame')}, {done['with_faces']} with faces"
    say(f"{file}: {counts}, {done['broken']} broken ones skipped, {done['frames_per_second']:.1f} frames/s")
    return done["with_faces"]
