"""What each process of tests/test_processes.py runs: the same toy stage, once for each job

    python process_worker.py FOLDER name,stop,mini_batch_tokens,precision ...

A job trains in FOLDER/name until the batch `stop` is asked for, and continues there if it was stopped before."""
import gc, math, os, sys
from pathlib import Path
import torch
from safetensors import safe_open
import bilingual_embed.train.loop as loop
from bilingual_embed.core.recipes import recipe
from bilingual_embed.core.records import Labelled, Pair, Scored, Task, TeacherEmbedding, Triplet
from bilingual_embed.data.batches import Batcher, pack
from bilingual_embed.data.tokenizer import train_tokenizer
from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertForMaskedLM

torch.set_num_threads(1)
RANK = os.environ.get('RANK', '')
WORLD_SIZE = int(os.environ.get('WORLD_SIZE', '1'))
FSDP = os.environ.get('ACCELERATE_USE_FSDP') == 'true'

# ---- the text: 8 animals, 4 deeds, two languages

ANIMALS = ['dog','cat','horse','sheep','owl','fox','bear','hare']
TIERE = ['Hund','Katze','Pferd','Schaf','Eule','Fuchs','Bär','Hase']
DEEDS = ['sleeps in the barn','runs over the field','drinks from the river','waits at the gate']
TATEN = ['schläft in der Scheune','läuft über das Feld','trinkt aus dem Fluss','wartet am Tor']
SUBJECTS,ACTS = list(zip(ANIMALS, TIERE)),list(zip(DEEDS, TATEN))
BOTH = [(f'The {animal} {deed}.', f'{tier}: {tat}.') for animal,tier in SUBJECTS for deed,tat in ACTS]

def similarity(i, j):
    if i == j: return 1.
    return .5 if i//4 == j//4 else 0.

def teacher(i): return [math.sin(1 + i//4*j) + math.cos(2 + i%4*j) for j in range(32)]

def toy_tasks(tok, folder):
    "All six kinds; and a set of equal scores, whose steps every process must skip"
    docs = pack((text for pair in BOTH*4 for text in pair), tok, folder/f'docs{RANK}.tokens', 24)
    others = [(i, j) for i in range(32) for j in (i, i//4*4 + (i+1)%4, (i+9)%32)]
    wrong = [(BOTH[(i+4) % 32][1], BOTH[(i+1) % 32][1]) for i in range(32)]
    pairs = [Pair(en, de, 'en-de', 'demo') for en,de in BOTH]
    triplets = [Triplet(en, de, negatives, 'en-de', 'demo') for (en,de),negatives in zip(BOTH, wrong)]
    scored = [Scored(BOTH[i][0], BOTH[j][1], similarity(i, j), 'en-de', 'demo') for i,j in others]
    equal = [Scored(en, de, .5, 'en-de', 'flat') for en,de in BOTH]
    labelled = [Labelled(text, f'scene {i}', 'en', 'demo') for i,pair in enumerate(BOTH) for text in pair]
    embeddings = [TeacherEmbedding(text, teacher(i), lang, 'demo')
                  for i,pair in enumerate(BOTH) for text,lang in zip(pair, ('en','de'))]
    return [Task('docs', 'mlm', docs), Task('pairs', 'pairs', pairs), Task('triplets', 'triplets', triplets),
            Task('sts', 'scored', scored), Task('flat', 'scored', equal, .5), Task('classes', 'labelled', labelled),
            Task('teacher', 'distillation', embeddings)]

def toy_model(tok): # without dropout, which each process draws for itself
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    no_dropout = dict(attention_probs_dropout_prob=0., hidden_dropout_prob=0.)
    config = JinaBertConfig(vocab_size=len(tok), pad_token_id=tok.pad_token_id, **shape, **no_dropout)
    return JinaBertForMaskedLM(config)

def toy_stage(mini_batch_tokens):
    kinds = ('mlm','pairs','triplets','scored','labelled','distillation')
    changes = dict(steps=40, batch_size=18, max_tokens=24, lr=3e-3, warmup_steps=5, negatives=2, save_steps=10,
                   mini_batch_tokens=mini_batch_tokens, weights={kind: 1. for kind in kinds})
    return recipe('sample', **{f'pretrain__{k}': v for k,v in changes.items()}).pretrain

# ---- stopping at a step, and a look at what is saved

class Stop(Exception): pass

def stop_at(step):
    make = Batcher.__call__
    def faulty(self, s):
        if s == step: raise Stop
        return make(self, s)
    return make, faulty

def watch_saving():
    "Numbers of layers that FSDP has divided, as they are at each checkpoint"
    seen,save = set(),loop.save_state
    def save_state(path, objective, *args, **kw):
        seen.add(sum(type(m).__name__ == 'FSDP_Layer' for m in objective.modules()))
        assert len({type(p) for p in objective.parameters()}) == 1
        save(path, objective, *args, **kw)
    loop.save_state = save_state
    return seen

def run_job(folder, name, stop, mini_batch_tokens, precision, tasks, tok):
    model,stage = toy_model(tok),toy_stage(mini_batch_tokens)
    def wanted_precision(wanted, device): return precision, ''              # whatever this CPU can do
    loop.supported_precision = wanted_precision
    make,Batcher.__call__ = stop_at(stop)
    try: info = loop.train(model, tasks, tok, stage, folder/name, 'demo', progress=0, batch_tokens=96)
    except Stop: return
    finally: Batcher.__call__ = make
    assert (info['processes'], info['precision']) == (WORLD_SIZE, precision), info

    # the model is whole again, whatever happened to it in between
    assert {type(p) for p in model.parameters()} == {torch.nn.Parameter}
    saved = safe_open(folder/name/'state.safetensors', 'pt')
    for n,p in model.named_parameters(): assert torch.equal(p, saved.get_tensor(f'model/model.{n}')), n

def main():
    folder,jobs = Path(sys.argv[1]),sys.argv[2:]
    texts = [(text, lang) for pair in BOTH*2 for text,lang in zip(pair, ('en','de'))]
    tok = train_tokenizer(texts, 400, ('en','de'), shrink=True)
    tasks = toy_tasks(tok, folder)
    divided = watch_saving()
    for job in jobs: # one after another in the same processes, as the stages of a run are
        name,stop,mini_batch_tokens,precision = job.split(',')
        run_job(folder, name, int(stop), int(mini_batch_tokens), precision, tasks, tok)
    assert divided == {2 if FSDP else 0}, divided

if __name__ == '__main__':
    main()
    if torch.distributed.is_initialized():
        gc.collect()                      # wrappers go before the group does
        torch.distributed.barrier()       # and no process leaves while another still talks
        torch.distributed.destroy_process_group()
