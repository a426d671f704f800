class TranslationEvaluator:
    pass
