"The published network written a second time (plain torch, float64, nothing of bilingual_embed), and published folders"
import json, math, torch
from pathlib import Path
from safetensors.torch import save_file

# the four kinds at a size for tests; BIG holds the true ones
_SMALL_BASE = dict(vocab_size=320, hidden_size=48, num_hidden_layers=2, num_attention_heads=12, intermediate_size=80)
_SMALL_EN = dict(vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=8, intermediate_size=64)
SIZES = dict(de=_SMALL_BASE, es=_SMALL_BASE, en=_SMALL_EN, code=_SMALL_BASE)

BASE = dict(vocab_size=61056, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
SMALL = dict(vocab_size=30528, hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048)
BIG = { # layout, sizes, parameters; the number for code is by arithmetic, the others are published
    'de': ('de', BASE, 160_813_824),
    'es': ('es', BASE, 160_850_688),
    'base-en': ('en', BASE | dict(vocab_size=30528), 137_368_320),
    'small-en': ('en', SMALL, 32_690_688),
    'code': ('code', BASE, 160_869_120)}
NAMES = dict(de='jina-bert-implementation', en='jina-bert-implementation', es='jina-bert-v2-qk-devlin-norm-1e-2',
             code='jina-bert-v2-qk-post-norm')

def names(layout, sizes): # name -> shape of every weight in the file
    V,D,L,_,I = sizes.values()
    out = {}
    def norm(n): out[n+'.weight'] = out[n+'.bias'] = (D,)
    def dense(n, o, i):
        out[n+'.weight'] = (o,i)
        out[n+'.bias'] = (o,)

    out['embeddings.word_embeddings.weight'] = (V,D)
    out['embeddings.token_type_embeddings.weight'] = (2,D)
    norm('embeddings.LayerNorm')
    for i in range(L):
        at = f'encoder.layer.{i}.'
        for n in ('query','key','value'): dense(at+'attention.self.'+n, D, D)
        if layout in ('es','code'):
            norm(at+'attention.self.layer_norm_q')
            norm(at+'attention.self.layer_norm_k')
        dense(at+'attention.output.dense', D, D)
        norm(at+'attention.output.LayerNorm')
        if layout == 'code':
            out[at+'mlp.up_gated_layer.weight'] = (2*I,D)
            dense(at+'mlp.down_layer', D, I)
            norm(at+'layer_norm_1')
            norm(at+'layer_norm_2')
        else:
            out[at+'mlp.gated_layers.weight'] = (2*I,D)
            dense(at+'mlp.wo', D, I)
            norm(at+'mlp.layernorm')
    dense('pooler.dense', D, D)
    return out

def weights(layout, sizes, dtype=torch.float32, seed=0): # random, norms and biases too, so that none can hide
    g = torch.Generator().manual_seed(seed)
    def scale(n, shape):
        if 'embeddings.weight' in n: return 1.
        return shape[-1]**-.5 if len(shape) == 2 else .3
    def is_norm(n): return n.endswith('.weight') and 'orm' in n.split('.')[-2]
    def weight(n, shape): return (torch.randn(shape, generator=g)*scale(n, shape) + is_norm(n)).to(dtype)
    return {n: weight(n, shape) for n,shape in names(layout, sizes).items()}

def config(layout, sizes, dtype='float16'):
    "config.json as published: model type bert, the code elsewhere, padding id 0, not a word on the layout"
    repo = f'jinaai/{NAMES[layout]}'
    code = dict(AutoConfig='configuration_bert.JinaBertConfig', AutoModel='modeling_bert.JinaBertModel',
                AutoModelForMaskedLM='modeling_bert.JinaBertForMaskedLM')
    code = {k: f'{repo}--{v}' for k,v in code.items()}
    attention_dropout = .1 if layout == 'de' else 0.
    dropout = dict(hidden_dropout_prob=.1, attention_probs_dropout_prob=attention_dropout, classifier_dropout=None)
    kind = dict(emb_pooler='mean', feed_forward_type='geglu', hidden_act='gelu', position_embedding_type='alibi')
    numbers = dict(initializer_range=.02, layer_norm_eps=1e-12, max_position_embeddings=8192)
    numbers |= dict(pad_token_id=0, type_vocab_size=2)
    other = dict(gradient_checkpointing=False, torch_dtype=dtype, transformers_version='4.31.0', use_cache=True)
    out = dict(_name_or_path=repo, model_type='bert', architectures=['JinaBertForMaskedLM'])
    out |= sizes | dropout | kind | numbers | other | dict(auto_map=code)
    return out if layout == 'en' else out | dict(attn_implementation='torch')

def slopes(H): # of the published ALiBi: powers of 2^(-8/n) for n the power of two below, then every other one of 2n
    n = 1
    while 2*n <= H: n *= 2
    return [2.**(-8*(i+1)/n) for i in range(n)] + [2.**(-8*(2*i+1)/(2*n)) for i in range(H-n)]

def reference(w, layout, sizes, ids, asymmetry=1.): # (T,) ids of one text -> (T,D) float64
    w = {k: v.double() for k,v in w.items()}
    _,D,L,H,I = sizes.values()
    T,d = len(ids),D//H
    position = torch.arange(T, dtype=torch.float64)

    def dense(x, n): return x@w[n+'.weight'].T + w[n+'.bias']
    def norm(x, n):
        x = x - x.mean(-1, keepdim=True)
        return x/torch.sqrt((x*x).mean(-1, keepdim=True)+1e-12)*w[n+'.weight'] + w[n+'.bias']
    def gelu(x): return x/2*torch.special.erfc(-x/math.sqrt(2))

    def attention(x, at):
        q,k,v = dense(x, at+'query'),dense(x, at+'key'),dense(x, at+'value')
        if layout in ('es','code'): q,k = norm(q, at+'layer_norm_q'),norm(k, at+'layer_norm_k')
        out = torch.empty(T, D, dtype=torch.float64)
        for r in torch.arange(T).split(128):               # some queries at a time: less memory, same numbers
            to_left = (position[r][:,None]-position).clamp(min=0)
            to_right = (position-position[r][:,None]).clamp(min=0)
            for h,m in enumerate(slopes(H)):
                s = slice(h*d, (h+1)*d)
                steeper = asymmetry**(.5 if h%2 else -.5)  # not published: heads 1, 3, 5, ... look left
                penalty = m*steeper*to_left + m/steeper*to_right
                out[r,s] = torch.softmax(q[r,s]@k[:,s].T/math.sqrt(d) - penalty, 1)@v[:,s]
        return out

    words,segment = w['embeddings.word_embeddings.weight'],w['embeddings.token_type_embeddings.weight'][0]
    x = norm(words[ids]+segment, 'embeddings.LayerNorm')
    for i in range(L):
        at = f'encoder.layer.{i}.'
        seen = dense(attention(x, at+'attention.self.'), at+'attention.output.dense')
        y = norm(seen+x, at+'attention.output.LayerNorm')
        if layout == 'code': # the layer's input a second time, and a second norm; value half first, gate behind
            y = norm(y+x, at+'layer_norm_1')
            up = y@w[at+'mlp.up_gated_layer.weight'].T
            x = norm(dense(up[:,:I]*gelu(up[:,I:]), at+'mlp.down_layer')+y, at+'layer_norm_2')
        else:                # gate first
            up = y@w[at+'mlp.gated_layers.weight'].T
            x = norm(dense(gelu(up[:,:I])*up[:,I:], at+'mlp.wo')+y, at+'mlp.layernorm')
    return x

BERT_SPECIAL = dict(cls='[CLS]', sep='[SEP]', pad='[PAD]', unk='[UNK]', mask='[MASK]')
ROBERTA_SPECIAL = dict(bos='<s>', cls='<s>', eos='</s>', sep='</s>', pad='<pad>', unk='<unk>', mask='<mask>')
def tokenizer_config(is_bert):
    special = BERT_SPECIAL if is_bert else ROBERTA_SPECIAL
    kind = dict(tokenizer_class='BertTokenizer', do_lower_case=True)
    if not is_bert: kind = dict(tokenizer_class='RobertaTokenizer', add_prefix_space=False, trim_offsets=True)
    return kind | {f'{name}_token': token for name,token in special.items()} | dict(model_max_length=8192)

def save_tokenizer(at, tok):
    tok.backend_tokenizer.save(str(at/'tokenizer.json'))
    is_bert = tok.cls_token == '[CLS]'
    (at/'tokenizer_config.json').write_text(json.dumps(tokenizer_config(is_bert)))
    if is_bert: return

    model = json.loads(tok.backend_tokenizer.to_str())['model']
    merges = [m if isinstance(m, str) else ' '.join(m) for m in model['merges']]
    (at/'vocab.json').write_text(json.dumps(model['vocab']))
    (at/'merges.txt').write_text('\n'.join(['#version: 0.2', *merges, '']), encoding='utf-8')

def folder(at, layout, tok=None, dtype=torch.float16, sizes=None, normalize=True, prefix=''): # -> path, weights
    at = Path(at)
    sizes = sizes or SIZES[layout]
    w = weights(layout, sizes, dtype)
    at.mkdir(parents=True)
    (at/'1_Pooling').mkdir()
    def write(name, data): (at/name).write_text(json.dumps(data))

    save_file({prefix+k: v for k,v in w.items()}, at/'model.safetensors', metadata=dict(format='pt'))
    write('config.json', config(layout, sizes, str(dtype).removeprefix('torch.')))
    kinds = ['Transformer','Pooling'] + ['Normalize']*normalize
    modules = [dict(idx=i, name=str(i), path=f'{i}_{k}' if i else '', type=f'sentence_transformers.models.{k}')
               for i,k in enumerate(kinds)]
    write('modules.json', modules)
    modes = 'cls_token','mean_tokens','max_tokens','mean_sqrt_len_tokens'
    pooling = {f'pooling_mode_{mode}': mode == 'mean_tokens' for mode in modes}
    write('1_Pooling/config.json', dict(word_embedding_dimension=sizes['hidden_size']) | pooling)
    longest = dict(max_seq_length=8192, do_lower_case=False, model_args=dict(trust_remote_code=True))
    write('sentence_bert_config.json', longest)
    if tok is not None: save_tokenizer(at, tok)
    return at, w
